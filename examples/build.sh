#!/bin/sh
# Packs each example that is a script into DIR/NAME.tgz (default: dist), for an upload.
# The same files give the same bytes: no times, no owners, a fixed order.
#   ./build.sh [DIR]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/dist}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if tar --version | grep -q GNU; then
  nobody='--owner=0 --group=0 --numeric-owner'
else # macOS, BSD
  nobody='--uid 0 --gid 0 --numeric-owner'
  export COPYFILE_DISABLE=1
fi

for folder in mock-checker gemini-python gemini-node templates/python-basic templates/python-api; do
  name=$(basename "$folder")
  mkdir "$work/$name"
  # What runs and what it depends on; tests and texts stay here.
  for file in main.py requirements.txt index.js package.json package-lock.json; do
    if [ -f "$here/$folder/$file" ]; then cp "$here/$folder/$file" "$work/$name/"; fi
  done
  cd "$work/$name"
  chmod 644 ./*
  TZ=UTC0 touch -t 197001010000 ./*
  # shellcheck disable=SC2086 # several options
  LC_ALL=C tar -cf "$work/$name.tar" --format=ustar $nobody -- *
  gzip -n -9 <"$work/$name.tar" >"$out/$name.tgz"
  echo "$out/$name.tgz"
done
