#!/usr/bin/env bash
# Runs a command with a Redis and a PostgreSQL for it: scripts/services.sh cargo test -p buttress-redis -p buttress-postgres
# With --nats in front of the command also with a nats-server with JetStream, which few commands need.
#
# The command finds them by REDIS_URL, DATABASE_URL and NATS_URL. A variable that is set already is checked and passed on. Else a
# private server is started, with its data in a temporary folder and on a port of 127.0.0.1 that nobody else uses, and is
# ended and removed after the command, however it ends. Servers that are not installed are installed first: by apt-get (as
# root, or by sudo) or by Homebrew.
set -euo pipefail

want_nats=
if [ "${1:-}" = --nats ]; then want_nats=yes; shift; fi
[ $# -gt 0 ] || { echo "usage: $0 [--nats] command [argument …]" >&2; exit 64; }

say() { printf 'services: %s\n' "$*" >&2; }
fail() { say "$*"; exit 69; }

folder=
redis_pid=
nats_pid=
postgres=      # where its programs are, once one is started
command_pid=

# shellcheck disable=SC2317 # The trap calls it.
finish() {
    trap '' INT TERM HUP
    if [ -n "$command_pid" ]; then kill -TERM -- "-$command_pid" 2>/dev/null || true; fi
    if [ -n "$redis_pid" ]; then kill -KILL "$redis_pid" 2>/dev/null || true; fi
    if [ -n "$nats_pid" ]; then kill -KILL "$nats_pid" 2>/dev/null || true; fi
    if [ -n "$postgres" ]; then
        as_owner "$postgres/pg_ctl" -D "$folder/postgres" -m immediate -w stop >/dev/null 2>&1 || true
    fi
    if [ -n "$folder" ]; then rm -rf "$folder"; fi
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# ── a server that runs already ──

# Sends a line to host and port, and prints what comes back within five seconds.
ask() {
    local pid
    (
        exec 3<>"/dev/tcp/$1/$2"
        printf '%b' "$3" >&3
        [ -z "$3" ] || { IFS= read -r -t 5 line <&3 && printf '%s\n' "$line"; }
    ) 2>/dev/null &
    pid=$!
    # Ends a connection attempt that hangs; macOS has no `timeout`.
    (sleep 5; kill "$pid") >/dev/null 2>&1 &
    local watch=$!
    local result=0
    wait "$pid" 2>/dev/null || result=$?
    kill "$watch" 2>/dev/null || true
    return "$result"
}

# scheme://user:password@host:port/path: sets host and port.
read_address() {
    local rest=${1#*://}
    rest=${rest%%[/?]*}
    rest=${rest##*@}
    case $rest in
        \[*) host=${rest#\[}; host=${host%%\]*}; port=${rest##*\]}; port=${port#:} ;;
        *:*) host=${rest%:*}; port=${rest##*:} ;;
        *) host=$rest; port= ;;
    esac
    host=${host:-127.0.0.1}
    port=${port:-$2}
}

check_redis() {
    local answer path
    case $REDIS_URL in
        unix:* | redis+unix:*)
            path=${REDIS_URL#*://}
            [ -S "${path%%\?*}" ] || fail "REDIS_URL is set, but there is no socket at ${path%%\?*}"
            return ;;
    esac
    read_address "$REDIS_URL" 6379
    case $REDIS_URL in
        # Behind TLS it is enough that it listens.
        rediss:*) ask "$host" "$port" '' || fail "REDIS_URL is set, but nothing listens at $host:$port" ;;
        *)
            answer=$(ask "$host" "$port" 'PING\r\n') || fail "REDIS_URL is set, but nothing listens at $host:$port"
            case $answer in
                +PONG* | -NOAUTH*) ;;
                *) fail "REDIS_URL is set, but the server at $host:$port is not Redis: $answer" ;;
            esac ;;
    esac
}

check_postgres() {
    local psql
    if psql=$(postgres_programs psql) && psql=$psql/psql; then
        PGCONNECT_TIMEOUT=5 "$psql" "$DATABASE_URL" -XAtc 'select 1' >/dev/null \
            || fail "DATABASE_URL is set, but PostgreSQL is not usable there"
    else
        read_address "$DATABASE_URL" 5432
        ask "$host" "$port" '' || fail "DATABASE_URL is set, but nothing listens at $host:$port"
    fi
}

check_nats() {
    local answer
    read_address "$NATS_URL" 4222
    # The server speaks first, also where TLS is required afterwards.
    answer=$(ask "$host" "$port" 'PING\r\n') || fail "NATS_URL is set, but nothing listens at $host:$port"
    case $answer in
        INFO*'"jetstream":true'*) ;;
        INFO*) fail "NATS_URL is set, but the nats-server at $host:$port has no JetStream: start it by nats-server -js" ;;
        *) fail "NATS_URL is set, but the server at $host:$port is not a nats-server: $answer" ;;
    esac
}

# ── programs ──

# The newest folder with this program of PostgreSQL, which distributions leave out of the PATH.
postgres_programs() {
    local candidate newest=
    if candidate=$(command -v "$1"); then dirname "$candidate"; return; fi
    for candidate in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin \
        /usr/local/opt/postgresql*/bin; do
        if [ -x "$candidate/$1" ]; then newest=$candidate; fi
    done
    [ -n "$newest" ] && printf '%s\n' "$newest"
}

install() { # the package of apt, the package of Homebrew, the variable that makes it unnecessary
    local root=()
    say "$1 is not installed: installing it"
    if command -v apt-get >/dev/null; then
        if [ "$(id -u)" -ne 0 ]; then
            command -v sudo >/dev/null || fail "install $1 (there is no sudo to do it with), or set $3"
            root=(sudo)
        fi
        # The package's own server is not wanted: `RUNLEVEL=1` prevents its start.
        { "${root[@]+"${root[@]}"}" apt-get update -qq \
            && "${root[@]+"${root[@]}"}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
                apt-get install -y -qq --no-install-recommends "$1"; } >&2 || fail "apt-get cannot install $1: install it in another way, or set $3"
    elif command -v brew >/dev/null; then
        brew install --quiet "$2" >&2 || fail "Homebrew cannot install $2: install it in another way, or set $3"
    else
        fail "install $1 (there is neither apt-get nor brew to do it with), or set $3"
    fi
}

# ── private servers ──

# PostgreSQL refuses to run as root. Its folder, and all above, must be open to whoever runs it.
owner=
as_owner() {
    if [ -z "$owner" ]; then
        "$@"
    elif command -v runuser >/dev/null; then
        (cd / && runuser -u "$owner" -- "$@")
    elif command -v setpriv >/dev/null; then
        (cd / && setpriv --reuid "$owner" --regid "$(id -g "$owner")" --clear-groups -- "$@")
    else
        # shellcheck disable=SC2016 # The other shell expands it.
        (cd / && su -s /bin/sh "$owner" -c '"$0" "$@"' -- "$@")
    fi
}

make_folder() {
    [ -z "$folder" ] || return 0
    if [ "$(id -u)" -eq 0 ]; then
        owner=postgres
        id "$owner" >/dev/null 2>&1 || owner=nobody
    fi
    local place
    for place in "${TMPDIR:-/tmp}" /tmp /var/tmp; do
        folder=$(mktemp -d "$place/buttress-services.XXXXXX") || { folder=; continue; }
        chmod 755 "$folder"
        if as_owner test -x "$folder"; then return; fi
        rm -rf "$folder"
        folder=
    done
    fail "no temporary folder that $owner may use"
}

# Below the ephemeral ports of common systems. If the port is taken, the server fails to start, and another port is tried.
any_port() { echo $((20000 + RANDOM % 12000)); }

start_redis() {
    local try version
    command -v redis-server >/dev/null || install redis-server redis REDIS_URL
    version=$(redis-server --version)
    case $version in
        *v=[0-6].*) fail "Redis is needed from 7.0 on, but this is: $version" ;;
    esac
    make_folder
    for try in 1 2 3 4 5 6 7 8; do
        port=$(any_port)
        mkdir -p "$folder/redis"
        : >"$folder/redis.log"
        redis-server --bind 127.0.0.1 --port "$port" --dir "$folder/redis" --save '' --maxmemory-policy noeviction \
            >"$folder/redis.log" 2>&1 </dev/null &
        redis_pid=$!
        while kill -0 "$redis_pid" 2>/dev/null; do
            # Read from its own log, because another server may be listening at the port.
            if grep -q 'eady to accept connections' "$folder/redis.log"; then
                export REDIS_URL="redis://127.0.0.1:$port"
                return
            fi
            sleep 0.05
        done
        wait "$redis_pid" 2>/dev/null || true
        redis_pid=
        grep -qi 'in use' "$folder/redis.log" || break
    done
    cat "$folder/redis.log" >&2
    fail "redis-server does not start (try $try)"
}

start_postgres() {
    local try programs
    programs=$(postgres_programs initdb) || { install postgresql postgresql@17 DATABASE_URL; programs=$(postgres_programs initdb); } \
        || fail "PostgreSQL is installed, but its programs are not found: put initdb's folder into the PATH"
    make_folder
    mkdir "$folder/postgres"
    if [ -n "$owner" ]; then chown "$owner" "$folder/postgres"; fi
    chmod 700 "$folder/postgres"
    as_owner "$programs/initdb" -D "$folder/postgres" -U postgres -A trust -E UTF8 --locale=C --no-sync \
        >"$folder/postgres.log" 2>&1 || { cat "$folder/postgres.log" >&2; fail "initdb fails"; }
    postgres=$programs
    for try in 1 2 3 4 5 6 7 8; do
        port=$(any_port)
        if as_owner "$programs/pg_ctl" -D "$folder/postgres" -l "$folder/postgres/log" -w -t 30 \
            -o "-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories= -c max_connections=200" \
            start >/dev/null 2>&1 </dev/null; then
            export DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
            return
        fi
        grep -q 'Address already in use' "$folder/postgres/log" || break
        : >"$folder/postgres/log"
    done
    cat "$folder/postgres/log" >&2
    fail "PostgreSQL does not start (try $try)"
}

start_nats() {
    local try
    command -v nats-server >/dev/null || install nats-server nats-server NATS_URL
    make_folder
    for try in 1 2 3 4 5 6 7 8; do
        port=$(any_port)
        : >"$folder/nats.log"
        nats-server --jetstream --store_dir "$folder/nats" --addr 127.0.0.1 --port "$port" \
            >"$folder/nats.log" 2>&1 </dev/null &
        nats_pid=$!
        while kill -0 "$nats_pid" 2>/dev/null; do
            if grep -q 'Server is ready' "$folder/nats.log"; then
                export NATS_URL="nats://127.0.0.1:$port"
                return
            fi
            sleep 0.05
        done
        wait "$nats_pid" 2>/dev/null || true
        nats_pid=
        grep -qi 'in use' "$folder/nats.log" || break
    done
    cat "$folder/nats.log" >&2
    fail "nats-server does not start (try $try)"
}

# Groups of their own: a Ctrl-C at the terminal comes here first, and ends the command before the servers.
set -m
if [ -n "${REDIS_URL:-}" ]; then check_redis; else start_redis; fi
if [ -n "${DATABASE_URL:-}" ]; then check_postgres; else start_postgres; fi
if [ -n "$want_nats" ]; then
    if [ -n "${NATS_URL:-}" ]; then check_nats; else start_nats; fi
fi

"$@" <&0 &
command_pid=$!
result=0
wait "$command_pid" || result=$?
command_pid=
exit "$result"
