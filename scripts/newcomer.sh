#!/usr/bin/env bash
# As a newcomer would: a fresh clone, an empty environment, the README's two commands and the tutorial; each step timed.
#   scripts/newcomer.sh [FOLDER]     default: a new temporary folder, removed afterwards; takes about half an hour
#   QUICK=1 scripts/newcomer.sh      the quick demo, no tests, a tutorial of one round on few images
set -euo pipefail

repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
folder=${1:-$(mktemp -d)}
[ $# -gt 0 ] || trap 'rm -rf "$folder"' EXIT
quick=${QUICK:-}
steps=()

step() { # step NAME COMMAND...: run, and remember how long it took
    local name=$1 begun=$SECONDS
    shift
    echo "--- $name" >&2
    "$@"
    steps+=("$(printf '%-34s %5d s' "$name" $((SECONDS - begun)))")
}

block() { # the tutorial's block of that name
    sed -n "/^\`\`\`sh $1\$/,/^\`\`\`\$/p" docs/tutorial.md | sed '1d;$d'
}

run_block() { bash -euo pipefail -c "$(block "$1")"; }

wait_until_ready() {
    until curl --silent --fail --output /dev/null http://127.0.0.1:8000/readyz; do
        kill -0 "$coordinator" || return 1
        sleep 0.5
    done
}

tutorial() {
    # shellcheck disable=SC1091
    source .venv/bin/activate
    eval "$(block founding)"
    local images
    images=$(block images)
    if [ -n "$quick" ]; then
        images=${images/FULL, lay_out_sites/Scale, lay_out_sites}
        images=${images/FULL/Scale(3, 1, 1, 1, num_rounds=1, local_epochs=1)}
    fi
    bash -euo pipefail -c "$images"
    local part
    for part in joining training asking; do run_block "$part"; done
}

step "clone" git clone --quiet --no-hardlinks "$repository" "$folder/pfedbayespt"
cd "$folder/pfedbayespt"
step "make setup" make setup
step "make demo${quick:+ QUICK=1}" make demo QUICK="$quick"
[ -n "$quick" ] || step "make test" make test
[ -z "$quick" ] || sed -i 's/num_rounds = 10/num_rounds = 1/' examples/ideograms.toml

PATH="$PWD/.venv/bin:$PATH" setsid bash -euo pipefail -c "$(block coordinator)" &
coordinator=$!
trap 'kill -- -"$coordinator" 2>/dev/null || true; [ -n "${1:-}" ] || rm -rf "$folder"' EXIT
step "the coordinator answers" wait_until_ready
step "tutorial: found, join, train, ask" tutorial

printf '%s\n' "" "${steps[@]}"
