#!/usr/bin/env bash
# Builds the image for GPUs and runs it without one, as docs/container.md says; stops at the first thing that is not so.
#
#   deploy/try_gpu_image.sh MODELS
#   GPU_OPTIONS="--gpus all" deploy/try_gpu_image.sh MODELS      # on a host with a GPU: with it, too
#
# Needs `segue` on the PATH, which may be the client alone, free ports 50051 to 50053, and a download of 1.6 GB.
# deploy/trial.sh names what else the environment can change.
TARGET=gpu
# shellcheck source=deploy/trial.sh
source "$(dirname "$0")/trial.sh"

build
describe

heading "What is installed is what constraints-gpu.txt pins"
run_python "
import re
from importlib.metadata import distributions
for found in distributions():
    print(re.sub('[-_.]+', '-', found.name.lower()) + '==' + found.version)
" | grep -v '^segue==' | sort >"$work/installed"
if grep -vxF -f constraints-gpu.txt "$work/installed"; then fail "nothing else is installed"; fi
grep -q '^onnxruntime-gpu==' "$work/installed" || fail "ONNX Runtime for GPUs is installed"
echo "$(wc -l <"$work/installed") packages: yes"

heading "CUDA's libraries are there, but for the driver's, which the host gives"
# shellcheck disable=SC2016,SC2086 # the container's shell expands them
engine run --rm --no-healthcheck $unprivileged ${RUN_OPTIONS-} --entrypoint sh "$IMAGE" -c '
    cd /opt/segue/lib/python3.*/site-packages
    LD_LIBRARY_PATH=$(echo "$PWD"/nvidia/*/lib | tr " " :) ldd onnxruntime/capi/libonnxruntime_providers_cuda.so' >"$work/linked"
grep 'not found' "$work/linked" | tee "$work/missing"
[ "$(awk '{print $1}' "$work/missing")" = libcuda.so.1 ] || fail "only libcuda.so.1 is missing"

heading "Without a GPU, it ends with the reason"
refused "there is no NVIDIA driver here (libcuda.so.1: .*; install it on the host, and give a container the GPU"

heading "Without a GPU, on the CPU"
container 1 -v "$tag-a:/state" -- --device cpu
said 1 'on CPUExecutionProvider: results do not depend on batching'
healthy 1
generate --server 127.0.0.1:50051 'The ' --seed 1 --max-characters 100 >"$work/text"
echo "it writes: yes, $(wc -m <"$work/text") characters"

heading "Without a GPU, on what works"
container 2 -v "$tag-a:/state" -- --device auto
said 2 'not on CUDA: there is no NVIDIA driver here'
said 2 'on CPUExecutionProvider: results do not depend on batching'
generate --server 127.0.0.1:50052 'The ' --seed 1 --max-characters 100 >"$work/whole"
same "$work/text" "$work/whole" "it writes the same text"

if [ -n "${GPU_OPTIONS-}" ]; then
    heading "With a GPU"
    # shellcheck disable=SC2086 # options are words
    container 3 $GPU_OPTIONS -v "$tag-b:/state"
    said 3 'on CUDAExecutionProvider'
    healthy 3
    generate --server 127.0.0.1:50053 'The ' --seed 1 --max-characters 100 >"$work/text"
    echo "it writes: yes, $(wc -m <"$work/text") characters"
else
    heading "Not tried: a GPU, which GPU_OPTIONS would give to a container"
fi
heading "All of it is so"
