# The stages of .ci/run, one function each. Sourced by it: $root is the checkout, $work a fresh directory, $cache what
# lasts, $LOGS where a stage puts trial's output (*.trial) and a line for each thing that it had to skip (skipped).
# shellcheck shell=bash disable=SC2154

# A copy of the checkout as git would give it, with what is not yet committed; without .git, and without what is ignored.
copy_tree() { # DIRECTORY
    mkdir -p "$1"
    if git -C "$root" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        (cd "$root" && git ls-files -co --exclude-standard -z |
            while IFS= read -r -d '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done |
            tar -c --null -T -) | tar -x -C "$1"
    else
        tar -c -C "$root" --exclude=.venv --exclude='_trial_temp*' --exclude=build --exclude=dist . | tar -x -C "$1"
    fi
}

# The tests without those that need the checkout itself or other programs: what every Python and every set of versions runs.
unit_tests() { # DIRECTORY: the names for trial
    (cd "$1" && find tests -mindepth 1 -maxdepth 1 \
        \( -name 'test_*.py' -o -type d ! -name '__pycache__' ! -name peers ! -name packaging ! -name quality \) |
        sed 's/\.py$//; s,/,.,g' | sort)
}

# Run the unit tests against the installed wheel: the checkout's own package is not there to be imported by mistake.
test_wheel() { # VENV NAME
    local tree=$work/without-package
    if [ ! -d "$tree" ]; then
        copy_tree "$tree"
        rm -rf "$tree/pipeops_agent" "$tree/twisted"
    fi
    # shellcheck disable=SC2046 # names without blanks
    (cd "$tree" && PYTHONPATH=$tree timeout 900 "$1/bin/trial" --temp-directory="$work/trial-$2" $(unit_tests "$tree")) |
        tee "$LOGS/$2.trial"
}

skip() { # WHAT WHY: on a developer's machine only
    if [ -n "$CI" ]; then
        echo "$1: $2; nothing is skipped here (CI= .ci/run skips)" >&2
        return 1
    fi
    echo "skipped: $1: $2"
    echo "$1" >>"$LOGS/skipped"
}

need_debian() { # PROGRAM PACKAGE...: install them where it is missing and that is possible; fails where there is none after all
    local program=$1 policy=/usr/sbin/policy-rc.d
    shift
    command -v "$program" >/dev/null && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        # What is installed is for the tests to start: no package starts a service of its own.
        if [ -e "$policy" ]; then policy=; else printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"; fi
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >&2
        [ -z "$policy" ] || rm -f "$policy"
    fi
    command -v "$program" >/dev/null
}

stage_tree() {
    copy_tree "$work/tree"
    bash -n "$root/.ci/run" "$root/.ci/stages.bash" "$root/tests/peers/kubernetes/kube"
    python3 --version
    # What tests talk to, and are skipped without.
    need_debian promtool prometheus || skip "tests with promtool" "not installed"
    { need_debian ip iproute2 && need_debian nft nftables && [ "$(id -u)" -eq 0 ]; } ||
        skip "tests of outages" "they need root, iproute2 and nftables"
    local proxy
    for proxy in tinyproxy squid microsocks; do # in /usr/sbin, one of them
        PATH=$PATH:/usr/sbin need_debian "$proxy" "$proxy" || skip "tests behind $proxy" "not installed"
    done
    need_debian curl curl || skip "requests through the forwards" "curl is not installed"
}

# What the tests' own Kubernetes is made of (tests/peers/kubernetes/kube): 7 minutes with an empty cache, else none.
# The tests themselves are run with all others, by the stage after this one.
stage_kubernetes() {
    local kube=$work/tree/tests/peers/kubernetes/kube why="the tests with a real Kubernetes"
    need_debian containerd containerd runc containernetworking-plugins && need_debian iptables iptables &&
        need_debian conntrack conntrack && need_debian ip iproute2 && need_debian openssl openssl &&
        need_debian cc gcc libc6-dev && need_debian buildah buildah && need_debian debootstrap debootstrap &&
        need_debian curl curl && need_debian busybox busybox-static && need_debian go golang-go ||
        { skip "$why" "a program is missing, and can't be installed"; return; }
    "$kube" build
    [ "$(id -u)" -ne 0 ] || "$kube" sweep
}

stage_tests() {
    local command
    command=$(python3 "$work/tree/.ci/readme_command.py" test)
    echo "\$ $command"
    (cd "$work/tree" && timeout 2400 bash -c "$command") | tee "$LOGS/readme.trial"
}

tools() { # the environment with the linters: the one that the README's test command has made, or one of its own
    if [ -x "$work/tree/.venv/bin/mypy" ]; then
        echo "$work/tree/.venv"
    else
        [ -d "$work/tools" ] || (cd "$work/tree" && python3 -m venv "$work/tools" &&
            "$work/tools/bin/pip" install --quiet --config-settings editable_mode=compat -e '.[test]') >&2
        echo "$work/tools"
    fi
}

stage_lint() {
    local venv status=0
    venv=$(tools)
    cd "$work/tree"
    "$venv/bin/ruff" check --cache-dir "$cache/ruff" . || status=1
    "$venv/bin/ruff" format --cache-dir "$cache/ruff" --check . || status=1
    "$venv/bin/mypy" --cache-dir "$cache/mypy" || status=1
    "$venv/bin/python" -m pipeops_agent.settings.docs --check || status=1
    "$venv/bin/python" -m pipeops_agent.web.api.docs --check || status=1
    changelog "$venv" || status=1
    unit_file || status=1
    return $status
}

# A change that a user notices comes with a fragment. Where the branch that it goes to is known, towncrier compares;
# in a clone without one (shallow, or a single branch) there must at least be fragments or released entries to show.
changelog() { # VENV
    local base
    "$1/bin/towncrier" build --draft --version 0 >"$LOGS/draft"
    for base in "${CHANGELOG_BASE:-}" origin/main origin/master; do
        [ -n "$base" ] && git -C "$root" merge-base HEAD "$base" >/dev/null 2>&1 || continue
        [ "$(git -C "$root" rev-parse HEAD)" != "$(git -C "$root" rev-parse "$base")" ] || break
        (cd "$root" && "$1/bin/towncrier" check --compare-with "$base")
        return
    done
    if [ "$(find changelog.d -type f ! -name README.md | wc -l)" -gt 0 ] || grep -q '^## [0-9]' CHANGELOG.md; then
        echo "changelog: no branch to compare with; fragments or releases are there"
    else
        echo "changelog: neither a fragment in changelog.d nor a release in CHANGELOG.md" >&2
        return 1
    fi
}

unit_file() { # the systemd unit: known options, and little that it may do
    local unit=deploy/systemd/pipeops-agent.service
    need_debian systemd-analyze systemd || { skip "the systemd unit" "systemd-analyze is not installed"; return; }
    mkdir -p "$work/units"
    # verify looks for the program, which is not installed here
    sed 's,^ExecStart=[^ ]*,ExecStart=/bin/true,' "$unit" >"$work/units/pipeops-agent.service"
    SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$work/units/pipeops-agent.service"
    systemd-analyze security --offline=true --threshold=20 "$unit" | tail -n 1
}

stage_go() {
    local program unformatted
    need_debian go golang-go || { skip "the Go peers" "Go is not installed"; return; }
    go version
    for program in gochisel gohub goinformer; do
        cd "$work/tree/tests/peers/$program"
        unformatted=$(gofmt -l .)
        [ -z "$unformatted" ] || { echo "gofmt would change: $unformatted" >&2; return 1; }
        go vet ./...
        timeout 600 go test ./...
    done
}

stage_build() {
    local venv
    copy_tree "$work/source"
    venv=$(tools)
    # The wheel is made from the source distribution, so both are tested by testing the wheel.
    "$venv/bin/python" -m build --outdir "$work/dist" "$work/source" >"$LOGS/build" || { tail -n 40 "$LOGS/build"; return 1; }
    ls -l "$work/dist"
}

wheel() { echo "$work"/dist/*.whl; }

# The installed wheel, in an environment that other users can enter, as it will run in an image: as a user without
# rights, as process 1, with nothing writable.
stage_wheel() {
    local venv=$work/installed mode
    # Not the python3 on PATH: that may lie under a home that other users can't enter.
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || need_debian pyvenv python3-venv ||
        echo "python3-venv is installed now, or could not be: the next step shows it"
    /usr/bin/python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "$(wheel)"
    "$venv/bin/pip" check
    for mode in plain nobody process-1 read-only image; do
        if [ "$mode" != plain ] && [ "$(id -u)" -ne 0 ]; then
            skip "the installed agent as $mode" "needs root"
            continue
        fi
        echo "--- $mode"
        (
            cd /
            "$root/.ci/as" "$mode" "$venv" "$venv/bin/twistd" --help >"$LOGS/help"
            grep -q '^ *pipeops-agent ' "$LOGS/help"
            grep -q '^ *pipeops-sandbox ' "$LOGS/help"
            "$root/.ci/as" "$mode" "$venv" "$venv/bin/twistd" pipeops-agent --help >"$LOGS/help"
            grep -q -e '--check-config' "$LOGS/help"
            python3 "$root/.ci/try_agent.py" "$root/.ci/as" "$mode" "$venv" \
                "$venv/bin/twistd" -n --pidfile= pipeops-agent --sandbox
        )
    done
}

# The README's first command, as typed, in an empty clone.
stage_readme() {
    local command
    copy_tree "$work/empty"
    command=$(python3 "$work/empty/.ci/readme_command.py" run)
    echo "\$ $command"
    cd "$work/empty"
    env -u PYTHONDONTWRITEBYTECODE python3 "$root/.ci/try_agent.py" sh -c "$command"
    # The other command in the same clone, up to having imported every test.
    command=$(python3 .ci/readme_command.py test)
    command=${command/bin\/trial /bin\/trial --dry-run }
    echo "\$ $command"
    timeout 600 bash -c "$command" >"$LOGS/dry" 2>&1 || { tail -n 40 "$LOGS/dry"; return 1; }
    tail -n 1 "$LOGS/dry"
}

# The oldest versions that pyproject.toml admits, on the oldest Python.
stage_lowest() {
    local venv=$work/lowest uv=$cache/uv python
    python=$(find_python 3.11) || { skip "the lowest versions" "no Python 3.11"; return; }
    "$python" -m venv "$venv"
    [ -x "$uv/bin/uv" ] || { python3 -m venv "$uv" && "$uv/bin/pip" install --quiet uv; }
    # uv reads variables of its own.
    export SSL_CERT_FILE=${SSL_CERT_FILE:-${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}}
    [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=$PIP_INDEX_URL
    "$uv/bin/uv" pip install --quiet --python "$venv/bin/python" --resolution lowest-direct \
        -r "$work/source/pyproject.toml"
    "$venv/bin/pip" install --quiet --no-deps "$(wheel)"
    "$venv/bin/pip" check
    "$venv/bin/pip" freeze --exclude pipeops-agent >"$LOGS/versions"
    "$venv/bin/python" "$root/.ci/lower_bounds.py" "$work/source/pyproject.toml"
    "$venv/bin/pip" install --quiet -c "$LOGS/versions" hypothesis jsonschema-rs websockets
    "$venv/bin/twistd" pipeops-agent --help >/dev/null
    test_wheel "$venv" lowest
}

find_python() { # VERSION: an interpreter that really starts, on PATH or under pyenv
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        "$candidate" -c 'import venv, ssl' >/dev/null 2>&1 && { command -v "$candidate"; return 0; }
    done
    return 1
}

# Every other Python that the machine has, up to the newest that the classifiers name.
stage_pythons() {
    local version python venv status=0
    for version in 3.12 3.13 3.14; do
        if ! python=$(find_python "$version"); then
            echo "python$version is not on this machine"
            continue
        fi
        echo "--- $("$python" --version)"
        venv=$work/python$version
        "$python" -m venv "$venv" && "$venv/bin/pip" install --quiet "$(wheel)" hypothesis jsonschema-rs websockets &&
            "$venv/bin/twistd" pipeops-agent --help >/dev/null && test_wheel "$venv" "python$version" || status=1
    done
    return $status
}
