#!/bin/sh
# cargo clippy with the clippy-driver that lies beside this script: cargo-clippy itself would look for one beside the
# dynamic linker by which it is started. What follows `--` goes to clippy-driver by CLIPPY_ARGS, as it expects it.
[ "$1" = clippy ] && shift
count=$#
lints=
after=
while [ "$count" -gt 0 ]; do
    argument=$1
    shift
    count=$((count - 1))
    if [ -n "$after" ]; then
        lints="${lints}${argument}__CLIPPY_HACKERY__"
    elif [ "$argument" = -- ]; then
        after=yes
    else
        set -- "$@" "$argument"
    fi
done
RUSTC_WORKSPACE_WRAPPER=${0%/*}/clippy-driver CLIPPY_ARGS=$lints exec "${CARGO:-cargo}" check "$@"
