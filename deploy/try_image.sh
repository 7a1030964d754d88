#!/usr/bin/env bash
# Builds the image and runs it as docs/container.md says, with a real engine; stops at the first thing that is not so.
#
#   deploy/try_image.sh MODELS
#
# Needs `segue` on the PATH, which may be the client alone, and free ports 50051 to 50053. What differs between engines
# comes from the environment (docs/container.md shows podman and buildah):
#
#   ENGINE        docker
#   BUILD         $ENGINE build
#   BUILD_OPTIONS more options of the build
#   RUN_OPTIONS   more options of every container
#   IMAGE         segue:cpu, which is built unless BUILD is empty
set -euo pipefail
models=$(realpath "${1:?the folder of the models}")
cd "$(dirname "$0")/.."
ENGINE=${ENGINE-docker}
BUILD=${BUILD-$ENGINE build}
IMAGE=${IMAGE-segue:cpu}
KEYS=/run/secrets/segue_keys
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
    printf ' %s' "${options[@]//segue-try-$$/segue}" segue:cpu "$@" | sed "s|$work|.|g"
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
    printf ' %s' "$@" segue:cpu | sed "s|$work|.|g"
    echo
    # shellcheck disable=SC2086
    if engine run --rm $unprivileged ${RUN_OPTIONS-} -v "$models:/models:ro" "$@" "$IMAGE" >"$work/refused" 2>&1; then
        fail "it is refused"
    fi
    grep '^Error: ' "$work/refused" | tail -1
    if grep -q Traceback "$work/refused"; then fail "no traceback"; fi
    grep -q "^Error: .*$text" "$work/refused" || { cat "$work/refused"; fail "the error says: $text"; }
}

if [ -n "$BUILD" ]; then
    heading "Build"
    # shellcheck disable=SC2086
    $BUILD ${BUILD_OPTIONS-} --target cpu -t "$IMAGE" . >"$work/build" 2>&1 || { cat "$work/build"; fail "it builds"; }
fi
heading "The image; OPTIONS are $unprivileged -v \$PWD/models:/models:ro"
bytes=$(engine image inspect --format '{{.Size}}' "$IMAGE")
echo "$((bytes / 1000000)) MB with its base; user $(engine image inspect --format '{{.Config.User}}' "$IMAGE")"
for module in torch segue_server; do
    # shellcheck disable=SC2086
    engine run --rm --no-healthcheck ${RUN_OPTIONS-} --entrypoint python3 "$IMAGE" -c "import importlib.util as u; print('$module:', bool(u.find_spec('$module')))"
done | tee "$work/modules"
grep -q '^torch: False' "$work/modules" && grep -q '^segue_server: True' "$work/modules" || fail "the server and no torch"

heading "A first start: keys are made on the volume"
container 1 -v "$tag-a:/state"
said 1 'keys made: /state/keys, key id 1'
echo "$ $(name) exec: who it is, what it may, where it can write"
engine exec "$tag-1" sh -c 'id; grep -E "^(CapEff|CapBnd|NoNewPrivs)" /proc/1/status; for place in / /etc /models /opt/segue /state; do
    touch $place/new 2>/dev/null && echo "writable: $place" && rm $place/new; done; true' | tee "$work/inside"
[ "$(grep -c '^writable' "$work/inside")" = 1 ] && grep -q '^writable: /state$' "$work/inside" || fail "only /state is writable"
grep -q 'CapBnd:.*0000000000000000' "$work/inside" || fail "no capability"
echo "$ $(name): its health check"
if engine healthcheck run --help >/dev/null 2>&1; then
    engine healthcheck run "$tag-1" || fail "healthy"
else
    for tries in $(seq 60); do
        status=$(engine inspect --format '{{.State.Health.Status}}' "$tag-1")
        [ "$status" = starting ] || break
        sleep 1
    done
    [ "$status" = healthy ] || fail "healthy, not $status"
fi
echo healthy

heading "A second replica on its volume: the same keys, the same sessions"
container 2 -v "$tag-a:/state"
said 2 'keys read: /state/keys, key ids 1'
one=127.0.0.1:50051 two=127.0.0.1:50052
generate --server $one 'The ' --seed 1 --max-characters 100 --ticket-out "$work/ticket" >"$work/halves"
generate --server $two --ticket-in "$work/ticket" --max-characters 100 >>"$work/halves"
generate --server $two 'The ' --seed 1 --max-characters 200 >"$work/whole"
same "$work/halves" "$work/whole" "a ticket of the first, continued on the second, gives the uninterrupted text"
segue sessions open scene --seed 1 --server $one >>"$work/summaries"
generate --server $one --session scene --max-characters 100 >"$work/halves"
generate --server $two --session scene --max-characters 100 >>"$work/halves"
segue sessions open other --seed 1 --server $one >>"$work/summaries"
generate --server $one --session other --max-characters 200 >"$work/whole"
same "$work/halves" "$work/whole" "so does a session"

heading "A replica elsewhere: another volume, another user, the same keys given read-only"
engine exec "$tag-1" cat /state/keys >"$work/keys"
chmod 400 "$work/keys"
# Whom the file belongs to; root itself is left out, as it could read anything.
user=$(id -u):$(id -g)
if [ "$(id -u)" = 0 ]; then user=4242:4242; chown 4242:4242 "$work/keys"; fi
container 3 --user "$user" -v "$tag-b:/state" -v "$work/keys:$KEYS:ro" -e "SEGUE_KEYS=$KEYS"
said 3 "keys read: $KEYS, key ids 1"
generate --server $one 'The ' --seed 2 --max-characters 100 --ticket-out "$work/ticket" >"$work/halves"
generate --server 127.0.0.1:50053 --ticket-in "$work/ticket" --max-characters 100 >>"$work/halves"
generate --server $one 'The ' --seed 2 --max-characters 200 >"$work/whole"
same "$work/halves" "$work/whole" "a ticket of the first, continued on the third, gives the uninterrupted text"
remove 3

heading "A stop in the midst of 8 streams: each ends with a ticket"
for seed in $(seq 8); do
    generate --server $one 'The ' --seed "$seed" --max-characters 1000000 --no-resume --ticket-out "$work/ticket.$seed" \
        >"$work/text.$seed" &
    streams[seed]=$!
done
for tries in $(seq 100); do
    if [ "$(find "$work" -name 'text.*' -size +0 | wc -l)" = 8 ]; then break; fi
    sleep 0.2
done
echo "$ $(name) stop"
started=$(date +%s%N)
engine stop "$tag-1" >"$work/stopped" 2>&1
took=$((($(date +%s%N) - started) / 1000000))
for seed in $(seq 8); do wait "${streams[seed]}" || true; done
status=$(engine inspect --format '{{.State.ExitCode}}' "$tag-1")
echo "stopped after $took ms, exit status $status; tickets: $(find "$work" -name 'ticket.*' | wc -l)"
[ "$status" = 0 ] || fail "it ends by itself before it is killed"
for seed in $(seq 8); do
    [ -s "$work/ticket.$seed" ] || fail "stream $seed has a ticket"
    generate --server $two --ticket-in "$work/ticket.$seed" --max-characters 100 >>"$work/text.$seed"
    generate --server $two 'The ' --seed "$seed" --max-characters $(($(wc -m <"$work/text.$seed") - 4)) >"$work/whole"
    cmp "$work/text.$seed" "$work/whole" || fail "stream $seed continues exactly"
done
echo "each of the 8, continued on the second, gives the uninterrupted text: yes"
remove 1

heading "A container that is replaced"
container 1 -v "$tag-a:/state"
said 1 'keys read: /state/keys, key ids 1'
segue sessions show scene --server $one >"$work/session"
echo "its session is still there: yes"

heading "What does not start, and what it says"
mkdir "$work/empty"
refused "cannot write in the state folder /state: Read-only file system" -v "$work/empty:/state:ro"
refused "cannot read the key file $KEYS: Permission denied" --user 4243:4243 -v "$work/keys:$KEYS:ro" -e "SEGUE_KEYS=$KEYS"
refused "cannot make the key file $KEYS, which does not exist" -e "SEGUE_KEYS=$KEYS"
refused "user 4242 cannot write in the state folder /nowhere/segue" --user 4242:4242 -e SEGUE_STATE= -e XDG_STATE_HOME=/nowhere
heading "All of it is so"
