#!/usr/bin/env bash
# Builds the image and runs it as docs/container.md says, with a real engine; stops at the first thing that is not so.
#
#   deploy/try_image.sh MODELS
#
# Needs `segue` on the PATH, which may be the client alone, and free ports 50051 to 50053. deploy/trial.sh names what the
# environment can change.
TARGET=cpu
# shellcheck source=deploy/trial.sh
source "$(dirname "$0")/trial.sh"
KEYS=/run/secrets/segue_keys

build
describe

heading "A first start: keys are made on the volume"
container 1 -v "$tag-a:/state"
said 1 'keys made: /state/keys, key id 1'
echo "$ $(name) exec: who it is, what it may, where it can write"
engine exec "$tag-1" sh -c 'id; grep -E "^(CapEff|CapBnd|NoNewPrivs)" /proc/1/status; for place in / /etc /models /opt/segue /state; do
    touch $place/new 2>/dev/null && echo "writable: $place" && rm $place/new; done; true' | tee "$work/inside"
[ "$(grep -c '^writable' "$work/inside")" = 1 ] && grep -q '^writable: /state$' "$work/inside" || fail "only /state is writable"
grep -q 'CapBnd:.*0000000000000000' "$work/inside" || fail "no capability"
healthy 1

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
