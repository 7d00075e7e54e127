#!/usr/bin/env bash
# Lists the public items of the crate, as rustdoc does. Writes the list to docs/surface.md; with `--check` it fails when that
# page is out of date. Fails when an item has a second public path. Needs the docs of all features.
set -euo pipefail
cd "$(dirname "$0")/.."

page=docs/surface.md
html="${CARGO_TARGET_DIR:-target}/doc/buttress"
cargo doc --quiet --no-deps --all-features -p buttress

second_paths=$(grep -rlE 'id="reexport\.' "$html" --include=index.html || true)
if [ -n "$second_paths" ]; then
    echo "these modules re-export an item that has another public path:" >&2
    echo "$second_paths" >&2
    exit 1
fi

# Of each kind, its name and its items, one a line.
items=$(sed -e 's/<h3/\n&/g; s/<li>/\n&/g' "$html/all.html" |
    sed -nE 's|^<h3 id="([^"]*)".*|## \1|p; s|^<li><a href="[^"]*">([^<]*)</a>.*|\1|p')
paths=$(grep -v '^##' <<<"$items" | grep -v '\bfuture::')
listing() {
    echo "# Public items"
    echo
    echo "The $(wc -l <<<"$paths") public paths of the crate with all features, without methods and \`future\` modules. Written by \`scripts/surface.sh\`."
    while read -r line; do
        case "$line" in
        "## "*) printf '\n%s\n\n' "$line" ;;
        *future::*) ;;
        *) echo "- \`$line\`" ;;
        esac
    done <<<"$items"
}

if [ "${1:-}" = --check ]; then
    diff -u "$page" <(listing) || {
        echo "$page is out of date: run scripts/surface.sh" >&2
        exit 1
    }
else
    listing >"$page"
fi
grep -c . <<<"$paths" | sed 's/$/ public paths/'
