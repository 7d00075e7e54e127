#!/usr/bin/env bash
# Runs one or more checks, one after the other, and stops at the first that fails: scripts/check.sh format clippy
# `--help` lists the checks. Each job of .github/workflows/ci.yml is one of them.
#
# A missing cargo tool or toolchain is installed if CI=true. Otherwise the check fails with the command that installs it.
set -euo pipefail
cd "$(dirname "$0")/.."

# The format of rustdoc's JSON changes between nightlies: this one suits the version of cargo-check-external-types below.
json_nightly="nightly-2026-03-20"
target="${CARGO_TARGET_DIR:-$PWD/target}"

# The published packages: the root and all in crates/.
published=(buttress)
for folder in crates/*/; do published+=("$(basename "$folder")"); done
select_published=()
for package in "${published[@]}"; do select_published+=(-p "$package"); done

say() { printf 'check: %s\n' "$*" >&2; }
fail() { say "$*"; exit 69; }

manifest_of() { if [ "$1" = buttress ]; then echo Cargo.toml; else echo "crates/$1/Cargo.toml"; fi; }

# A table of a manifest, without its header.
table() { awk -v header="[$2]" '/^\[/ { inside = $0 == header; next } inside' "$1"; }

features_of() { table "$(manifest_of "$1")" features | sed -nE 's/^([a-z0-9_-]+) *=.*/\1/p'; }

need_tool() { # the tool, its version
    command -v "$1" >/dev/null && return
    [ "${CI:-}" = true ] || fail "$1 is not installed: cargo install --locked $1@$2"
    cargo install --locked "$1@$2"
}

need_toolchain() { # its name, further arguments of rustup
    rustup run "$1" rustc --version >/dev/null 2>&1 && return
    [ "${CI:-}" = true ] || fail "the toolchain $1 is not installed: rustup toolchain install ${*}"
    rustup toolchain install --profile minimal "$@"
}

# Writes a package that depends on a published one with these features (a list for TOML), as a user's would. Unlike in the
# workspace, nothing else then raises the versions of dependencies.
write_user() { # its folder, the published package, the features
    mkdir -p "$1/src"
    : >"$1/src/lib.rs"
    cat >"$1/Cargo.toml" <<-TOML
	[package]
	name = "user"
	edition = "2024"

	[dependencies]
	$2 = { path = '$(dirname "$PWD/$(manifest_of "$2")")', default-features = false, features = [$3] }

	[workspace]
	TOML
}

check_format() { # The format of all sources.
    cargo fmt --all --check
}

check_check() { # Everything compiles, with all features.
    cargo check --workspace --all-targets --all-features
}

check_clippy() { # No warnings of rustc or clippy, which also finds what the minimum supported Rust version lacks.
    cargo clippy --workspace --all-targets --all-features -- -D warnings
}

check_features() { # Each published package without features, and with each feature alone. Features gate dependencies only.
    local package feature
    for package in "${published[@]}"; do
        cargo clippy -p "$package" --lib --no-default-features -- -D warnings
        for feature in $(features_of "$package"); do
            say "$package: only $feature"
            cargo clippy -p "$package" --lib --no-default-features --features "$feature" -- -D warnings
        done
    done
}

check_docs() { # The docs of the published packages, and the list of public items in docs/surface.md.
    RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc --no-deps "${select_published[@]}" --all-features
    RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" scripts/surface.sh --check
}

check_docs_rs() { # The docs as docs.rs builds them, on nightly.
    need_toolchain nightly
    RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings --cfg docsrs" CARGO_TARGET_DIR="$target/docs-rs" \
        cargo +nightly doc --no-deps "${select_published[@]}" --all-features
}

check_tests() { # The tests of buttress itself. They need no server.
    cargo test -p buttress --all-features
}

check_services() { # The tests of all other packages, with a Redis, a PostgreSQL and a NATS server.
    scripts/services.sh --nats cargo test --workspace --exclude buttress --all-features
}

check_package() { # The published packages can be packaged and built from their packages, and the tests of buttress pass in its own.
    local version
    cargo package "${select_published[@]}"
    version=$(table Cargo.toml package | sed -nE 's/^version *= *"(.*)"/\1/p')
    # Tests of the repository itself read files that are not packaged.
    (cd "$target/package/buttress-$version" && CARGO_TARGET_DIR="$target" cargo test --all-features -- \
        --skip readme:: --skip architecture:: --skip mistakes::)
}

check_outside() { # The fuzz targets and the comparison with other crates compile. Both have a workspace of their own.
    (cd fuzz && RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$target/fuzz" cargo check --locked)
    (cd benches/peers && CARGO_TARGET_DIR="$target/peers" cargo check --locked)
}

check_msrv() { # The published packages compile with the minimum supported Rust version and the committed Cargo.lock.
    local version
    version=$(table Cargo.toml workspace.package | sed -nE 's/^rust-version *= *"(.*)"/\1/p')
    if [ -n "${MSRV_RUSTC:-}" ]; then
        "$MSRV_RUSTC" --version | grep -F "rustc $version." || fail "MSRV_RUSTC is not Rust $version"
        RUSTC="$MSRV_RUSTC" CARGO_TARGET_DIR="$target/msrv" cargo check "${select_published[@]}" --all-features --locked
        return
    fi
    need_toolchain "$version"
    CARGO_TARGET_DIR="$target/msrv" cargo "+$version" check "${select_published[@]}" --all-features --locked
}

check_minimal_versions() { # Each published package compiles with the oldest dependencies it allows: with all features and with each alone.
    local user package features feature
    user=$(mktemp -d)
    # shellcheck disable=SC2064 # The folder is known now, and no longer when the function has returned.
    trap "rm -rf '$user'" EXIT
    for package in "${published[@]}"; do
        features=$(features_of "$package" | sed 's/.*/"&"/')
        for feature in "${features//$'\n'/, }" "" $features; do
            say "$package with the features [$feature]"
            write_user "$user" "$package" "$feature"
            # The option is unstable. It is needed only to write the lock file.
            (cd "$user" && rm -f Cargo.lock && RUSTC_BOOTSTRAP=1 cargo -Z minimal-versions generate-lockfile --quiet)
            CARGO_TARGET_DIR="$target/minimal-versions" cargo check --quiet --manifest-path "$user/Cargo.toml" --locked
        done
    done
}

check_semver() { # No breaking change since the newest release (or SEMVER_BASELINE, a git revision) without a new version.
    local baseline="${SEMVER_BASELINE:-}"
    if [ -z "$baseline" ]; then baseline=$(git tag --list 'v[0-9]*' --sort=-version:refname | head -n 1); fi
    if [ -z "$baseline" ]; then
        local reason="semver is NOT CHECKED: there is no release yet (no tag v*), so there is nothing to compare with"
        say "$reason"
        [ -z "${GITHUB_ACTIONS:-}" ] || echo "::warning::$reason"
        return
    fi
    need_tool cargo-semver-checks 0.51.0
    cargo semver-checks "${select_published[@]}" --all-features --baseline-rev "$baseline"
}

check_deny() { # The licenses, sources and duplicates of all dependencies.
    need_tool cargo-deny 0.20.2
    cargo deny --workspace check licenses bans sources
}

check_advisories() { # No dependency has a known vulnerability or was yanked. Needs the network.
    need_tool cargo-deny 0.20.2
    cargo deny --workspace check advisories
}

check_external_types() { # Only the listed crates have types in the public API.
    need_tool cargo-check-external-types 0.5.0
    local nightly="${JSON_NIGHTLY:-$json_nightly}" package
    need_toolchain "$nightly"
    for package in "${published[@]}"; do
        CARGO_TARGET_DIR="$target/external-types" \
            cargo "+$nightly" check-external-types --all-features --manifest-path "$(manifest_of "$package")"
    done
}

check_scripts() { # The scripts themselves, by shellcheck.
    command -v shellcheck >/dev/null || fail "shellcheck is not installed: apt-get install shellcheck, or brew install shellcheck"
    shellcheck scripts/*.sh .ci/run
}

list() { sed -nE 's/^check_([a-z_]+)\(\) \{ # (.*)/\1 \2/p' "$0" | while read -r name text; do printf '  %-18s %s\n' "${name//_/-}" "$text"; done; }

case "${1:-}" in
"" | -h | --help)
    printf 'usage: %s check …\n\n' "$0"
    list
    [ -n "${1:-}" ] || exit 64
    exit
    ;;
esac

for name; do
    function="check_${name//-/_}"
    declare -F "$function" >/dev/null || { say "there is no check \`$name\`"; list >&2; exit 64; }
done
for name; do
    printf '\n== %s\n' "$name"
    # A subshell, so that a check cleans up when it ends. Not in a condition, where `set -e` would have no effect.
    ("check_${name//-/_}")
done
