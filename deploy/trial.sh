# shellcheck shell=bash
# What the trials of the two images share: try_image.sh and try_gpu_image.sh set TARGET and source it.
#
# What differs between engines comes from the environment (docs/container.md shows podman and buildah):
#
#   ENGINE        docker
#   BUILD         $ENGINE build
#   BUILD_OPTIONS more options of the build
#   RUN_OPTIONS   more options of every container
#   IMAGE         segue:$TARGET, which is built unless BUILD is empty
set -euo pipefail
models=$(realpath "${1:?the folder of the models}")
cd "$(dirname "$0")/.."
ENGINE=${ENGINE-docker}
BUILD=${BUILD-$ENGINE build}
IMAGE=${IMAGE-segue:$TARGET}
unprivileged="--read-only --cap-drop all --security-opt no-new-privileges"
work=$(mktemp -d)
tag=segue-try-$$

engine() { $ENGINE "$@"; }
name() { echo "${ENGINE%% *}" | xargs basename; }
heading() { printf '\n# %s\n' "$*"; }
fail() { printf 'NOT SO: %s\n' "$*" >&2; exit 1; }
clean_up() {
    engine rm --force "$tag-1" "$tag-2" "$tag-3" >"$work/removed" 2>&1 || true
    engine volume rm --force "$tag-a" "$tag-b" >>"$work/removed" 2>&1 || true
    rm -r "$work"
}
trap clean_up EXIT

# container NUMBER OPTION... [-- ARGUMENT...]: start it in the background, wait until it is ready, show its log.
container() {
    local number=$1 port=$((50050 + $1)) options=() tries
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
    [ $# -eq 0 ] || shift
    printf '$ %s run OPTIONS -p 127.0.0.1:%s:50051' "$(name)" "$port"
    printf ' %s' "${options[@]//segue-try-$$/segue}" "segue:$TARGET" "$@" | sed "s|$work|.|g"
    echo
    # shellcheck disable=SC2086 # options are words
    engine run --detach --name "$tag-$number" $unprivileged ${RUN_OPTIONS-} -p "127.0.0.1:$port:50051" \
        -v "$models:/models:ro" "${options[@]}" "$IMAGE" "$@" >"$work/started" 2>&1 || { cat "$work/started"; fail "it starts"; }
    for tries in $(seq 300); do
        engine logs "$tag-$number" >"$work/log.$number" 2>&1
        if grep -q '^ready: ' "$work/log.$number"; then break; fi
        [ "$(engine inspect --format '{{.State.Running}}' "$tag-$number")" = true ] || break
        sleep 0.2
    done
    sed 's/^[0-9-]* [0-9:,]* //' "$work/log.$number"
    grep -q '^ready: ' "$work/log.$number" || fail "container $number gets ready ($tries tries)"
}
remove() { engine rm --force "$tag-$1" >"$work/removed" 2>&1; }
said() { grep -q "$2" "$work/log.$1" || fail "the log says: $2"; }
# Writes the prompt, too.
generate() { segue generate "$@" 2>>"$work/summaries"; }
same() { cmp "$1" "$2" || fail "$3"; echo "$3: yes, $(wc -m <"$1") characters"; }

# refused TEXT OPTION...: it must not start, and end with a line that holds TEXT.
refused() {
    local text=$1
    shift
    printf '$ %s run OPTIONS' "$(name)"
    printf ' %s' "$@" "segue:$TARGET" | sed "s|$work|.|g"
    echo
    # shellcheck disable=SC2086
    if engine run --rm $unprivileged ${RUN_OPTIONS-} -v "$models:/models:ro" "$@" "$IMAGE" >"$work/refused" 2>&1; then
        fail "it is refused"
    fi
    grep '^Error: ' "$work/refused" | tail -1
    if grep -q Traceback "$work/refused"; then fail "no traceback"; fi
    grep -q "^Error: .*$text" "$work/refused" || { cat "$work/refused"; fail "the error says: $text"; }
}

# healthy NUMBER: its health check says so.
healthy() {
    local status tries
    echo "$ $(name): its health check"
    if engine healthcheck run --help >/dev/null 2>&1; then
        engine healthcheck run "$tag-$1" || fail "healthy"
    else
        for tries in $(seq 60); do
            status=$(engine inspect --format '{{.State.Health.Status}}' "$tag-$1")
            [ "$status" = starting ] || break
            sleep 1
        done
        [ "$status" = healthy ] || fail "healthy, not $status"
    fi
    echo healthy
}

# run_python CODE: in the image, with nothing else.
run_python() {
    # shellcheck disable=SC2086
    engine run --rm --no-healthcheck $unprivileged ${RUN_OPTIONS-} --entrypoint python3 "$IMAGE" -c "$1"
}

build() {
    local started=$SECONDS
    [ -n "$BUILD" ] || return 0
    heading "Build"
    # shellcheck disable=SC2086
    $BUILD ${BUILD_OPTIONS-} --target "$TARGET" -t "$IMAGE" . >"$work/build" 2>&1 || { cat "$work/build"; fail "it builds"; }
    echo "built in $((SECONDS - started)) s"
}

describe() {
    local bytes module
    heading "The image; OPTIONS are $unprivileged -v \$PWD/models:/models:ro"
    bytes=$(engine image inspect --format '{{.Size}}' "$IMAGE")
    echo "$((bytes / 1000000)) MB with its base; user $(engine image inspect --format '{{.Config.User}}' "$IMAGE")"
    for module in torch segue_server; do
        run_python "import importlib.util as u; print('$module:', bool(u.find_spec('$module')))"
    done | tee "$work/modules"
    grep -q '^torch: False' "$work/modules" && grep -q '^segue_server: True' "$work/modules" || fail "the server and no torch"
}
