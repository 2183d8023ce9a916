"""The scripts of custom checks: taken from strangers, checked, and kept as clean archives.

An upload (`archive`), a git repository (`git`) and a text all end as one tar on the `shelf`,
named by its SHA-256: only plain files and folders, nobody's ids, no times. What isn't such a
tree is refused by a message that says what to change, and leaves nothing behind. Nothing is
ever unpacked on this machine. `tree` holds the rules, `tar` reads what may break them.
"""
