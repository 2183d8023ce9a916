#!/bin/sh
# TeckoChecker in one file: these lines, and behind them a compressed folder. It is unpacked
# once, into a cache folder under a name made of its content, and run from there.
# TECKOCHECKER_CACHE names a place for it; else the ones below are tried.

# Prints the folder to run from. A subshell calls it, so nothing in here reaches the program.
unpacked() {
    umask 077
    PATH=/usr/bin:/bin${PATH:+:$PATH}
    content=@CONTENT@ # sha256 of what stands behind these lines
    line=@LINE@ # where it begins
    files=@FILES@ # how many it holds
    name=@NAME@
    user=$(id -u)
    why=
    if [ -n "$TECKOCHECKER_CACHE" ]; then
        set -- "$TECKOCHECKER_CACHE"
    else
        temporary=${TMPDIR:-/tmp}
        set --
        [ -z "$CACHE_DIRECTORY" ] || set -- "$@" "${CACHE_DIRECTORY%%:*}/executable" # of systemd
        [ -z "$XDG_CACHE_HOME" ] || set -- "$@" "$XDG_CACHE_HOME/teckochecker/executable"
        [ -z "$HOME" ] || set -- "$@" "$HOME/.cache/teckochecker/executable"
        for shared in /var/tmp "$temporary" "$XDG_RUNTIME_DIR" /dev/shm; do
            # Where others may write, only the sticky bit keeps them from exchanging our folder.
            if [ -k "$shared" ] || [ -O "$shared" ]; then
                set -- "$@" "$shared/teckochecker-$user"
            fi
        done
    fi
    for cache in "$@"; do
        if [ -x "$cache/$name/teckochecker" ] && ours "$cache" && whole "$cache/$name"; then
            printf '%s\n' "$cache/$name"
            return
        fi
    done
    for cache in "$@"; do
        if unpack "$cache"; then
            printf '%s\n' "$cache/$name"
            return
        fi
    done
    complain "it can't be unpacked anywhere:$why
Set TECKOCHECKER_CACHE to a folder on a disk that has room and may hold programs."
}

# Whether a folder belongs to us and is closed to all others, who could plant files in it.
ours() {
    set -- $(ls -ldn "$1" 2>/dev/null)
    case $1,$3 in
    drwx------,"$user" | drwx------.,"$user") return 0 ;;
    esac
    return 1
}

# Whether nothing was taken out of a folder, as programs that tidy temporary folders do.
whole() {
    [ "$(find "$1" -type f 2>/dev/null | wc -l)" -eq "$files" ]
}

# Unpacks into a cache folder, or adds to `why` what keeps it from that.
unpack() {
    new=
    if ! mkdir -p "$1" 2>/dev/null; then
        refuse "$1" "it can't be made"
    elif ! ours "$1"; then
        refuse "$1" "it must be yours, and closed to all others (chmod 700)"
    elif ! new=$(mktemp -d "$1/new.$$.XXXXXX" 2>/dev/null); then
        refuse "$1" "it can't be written"
    elif ! may_run "$new/probe"; then
        refuse "$1" "no program may run from there (noexec)"
    elif ! sound; then
        rm -rf "$new"
        complain "$0 is damaged: get it again."
    elif ! said=$(fill "$new/$name" 2>&1); then
        refuse "$1" "$(printf '%s\n' "$said" | head -n 1)"
    else
        prune "$1"
        # Only a damaged one goes. One that isn't there now may be the next moment, by another
        # start, and is whole then: a rename brings it.
        [ ! -e "$1/$name" ] || whole "$1/$name" || mv "$1/$name" "$new/damaged" 2>/dev/null
        # A rename: who starts at the same time sees all of it or nothing, and the first one stays.
        mv "$new/$name" "$1/" 2>/dev/null
        rm -rf "$new"
        whole "$1/$name" && return
        refuse "$1" "it can't be changed"
    fi
    [ -z "$new" ] || rm -rf "$new"
    return 1
}

may_run() {
    printf '#!/bin/sh\n' >"$1" && chmod 700 "$1" && "$1" 2>/dev/null
}

payload() {
    tail -n "+$line" "$0"
}

sound() {
    sum=$(payload | { sha256sum 2>/dev/null || shasum -a 256; })
    [ "${sum%% *}" = "$content" ]
}

# What is renamed must be on the disk, or a power cut leaves a folder of empty files.
fill() {
    mkdir "$1" && payload | tar -xzof - -C "$1" && { sync -f "$1" 2>/dev/null || sync; }
}

# Removes what other versions and killed starts have left, but nothing that a process runs from.
prune() (
    cd -P "$1" && [ -d /proc/self ] || return
    running=$(ls -l /proc/[0-9]*/exe 2>/dev/null)
    for old in *; do
        case $old in
        "$name") ;;
        new.*)
            pid=${old#new.}
            kill -0 "${pid%%.*}" 2>/dev/null || rm -rf "$old"
            ;;
        *[!0-9a-f]*) ;; # not made by us
        ????????????????)
            case $running in
            *" $PWD/$old/"*) ;;
            *) rm -rf "$old" ;;
            esac
            ;;
        esac
    done
)

refuse() {
    why="$why
  $1: $2"
}

complain() {
    printf 'teckochecker: %s\n' "$1" >&2
    exit 74
}

folder=$(unpacked) || exit
export TECKOCHECKER_CALLED="$0"
exec "$folder/teckochecker" "$@"
exit
