#!/usr/bin/env bash
# CUDA builds, with no CUDA installation and no GPU needed.
#
#   scripts/cuda.sh build [cargo arguments]   target/release/trainer with CUDA (cuda,nccl); starts
#                                             on machines without a driver too, and says so there
#   scripts/cuda.sh test  [cargo arguments]   tests of such a build; those that need a GPU say that they
#                                             are skipped where there is none
#   scripts/cuda.sh check [cargo arguments]   clippy with cuda,nccl,cudnn
#   scripts/cuda.sh lint  [cargo arguments]   the same with a stand-in for the kernels' compiler:
#                                             nothing is downloaded, our own code is checked alone
#   scripts/cuda.sh run COMMAND…              COMMAND with the libraries of the build in reach
#
# The compiler and the libraries come from PyPI into target/cuda (2.5 GB); CUDA_HOME of the caller
# is taken instead where it is set. CUDA_COMPUTE_CAP is the GPUs' compute capability (default 80:
# A100 and, by the driver's compiler, everything later; 90: H100).
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
own=$root/target/cuda
mode=${1:-}
[ $# -eq 0 ] || shift
say() { printf 'cuda: %s\n' "$*" >&2; }

# One release of everything: the compiler's parts must not be mixed.
packages=("cuda-toolkit[nvcc,cudart,cublas,curand,cccl,nvrtc]==13.0.2" nvidia-cuda-nvcc==13.0.88
    nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-nccl-cu13==2.30.7
    nvidia-cudnn-cu13==9.21.1.3)

# The packages as the tree that build scripts and the loader look for: names without versions too.
toolkit() {
    local venv=$own/venv tree=$own/toolkit site file name
    if [ ! -e "$tree/.complete" ]; then
        say "fetching NVIDIA's compiler and libraries from PyPI into target/cuda"
        mkdir -p "$own"
        python3 -m venv "$venv"
        "$venv/bin/python" -m pip install -q --disable-pip-version-check "${packages[@]}"
        site=$(echo "$venv"/lib/python3*/site-packages/nvidia)
        rm -rf "$tree"
        mkdir -p "$tree/lib" "$tree/include" "$tree/link"
        ln -s "$site/cu13/bin" "$tree/bin"
        ln -s "$site/cu13/nvvm" "$tree/nvvm"
        for file in "$site"/{cu13,nccl,cudnn}/include/*; do ln -sfn "$file" "$tree/include/"; done
        for file in "$site"/{cu13,nccl,cudnn}/lib/*.{so.*,a}; do
            [ -e "$file" ] || continue
            name=$(basename "$file")
            ln -sfn "$file" "$tree/lib/$name"
            case $name in libcudart.so.*) ;; *.so.*) ln -sfn "$file" "$tree/lib/${name%%.so.*}.so" ;; esac
        done
        ln -s lib "$tree/lib64"
        # All that is linked: the static runtime. The other libraries are loaded when they are used.
        ln -s "$site/cu13/lib/libcudart_static.a" "$tree/link/libcudart.a"
        touch "$tree/.complete"
    fi
    export CUDA_HOME=$tree
}

use_toolkit() {
    if [ -z "${CUDA_HOME:-}" ]; then toolkit; fi
    export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80} CUDA_PATH=$CUDA_HOME
    export PATH=$CUDA_HOME/bin:$PATH LIBRARY_PATH=$CUDA_HOME/link${LIBRARY_PATH:+:$LIBRARY_PATH}
}

# candle asks its CUDA binding to link the driver, so that a program without one does not even
# start. This is the same release with that one word changed: the driver is loaded when it is used.
candle() {
    local source
    source=$(cargo metadata --format-version 1 --locked --manifest-path "$root/Cargo.toml" |
        python3 -c 'import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(next(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "candle-core"))')
    local copy=$own/candle-core
    if ! cmp -s "$source/Cargo.toml.orig" "$copy/Cargo.toml.orig"; then
        rm -rf "$copy"
        mkdir -p "$own"
        cp -r "$source" "$copy"
        rm -f "$copy/Cargo.lock"
        sed -i 's/"dynamic-linking"/"dynamic-loading"/' "$copy/Cargo.toml"
    fi
    patched=(--config "patch.crates-io.candle-core.path=\"$copy\"")
}

# cargo writes the changed source of candle-core into the lock file: that stays out of the tree.
with_candle() {
    candle
    cp Cargo.lock "$own/Cargo.lock"
    trap 'cp "$own/Cargo.lock" "$root/Cargo.lock"' EXIT
    "$@"
}

# Writes what candle's build script expects of the kernels' compiler, empty.
stand_in() {
    local fake=$own/stand-in
    mkdir -p "$fake/bin" "$fake/include" "$fake/lib"
    cat >"$fake/bin/nvcc" <<'NVCC'
#!/usr/bin/env bash
case " $* " in *" --version "*) echo "Cuda compilation tools, release 13.0, V13.0.88"; exit ;; esac
out='' dir=. ptx='' inputs=()
while [ $# -gt 0 ]; do
    case $1 in
        -o) out=$2; shift ;;
        -o*) out=${1#-o} ;;
        --output-directory) dir=$2; shift ;;
        --output-directory=*) dir=${1#*=} ;;
        --ptx | -ptx) ptx=1 ;;
        *.cu | *.o) inputs+=("$1") ;;
    esac
    shift
done
if [ -n "$out" ]; then
    case $out in *.a) rm -f "$out"; exec ar rcs "$out" ;; esac
    : >"$out"
    exit
fi
for input in "${inputs[@]}"; do
    : >"$dir/$(basename "${input%.cu}")${ptx:+.ptx}"
done
NVCC
    chmod +x "$fake/bin/nvcc"
    export CUDA_HOME=$fake CUDA_PATH=$fake CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
    export PATH=$fake/bin:$PATH CUDARC_CUDA_VERSION=13000
}

clippy() {
    cargo clippy --release --workspace --all-targets --features trainer/cuda,trainer/nccl,trainer/cudnn \
        "${patched[@]}" "$@" -- -D warnings
}

build() {
    cargo build --release --workspace --features trainer/cuda,trainer/nccl "${patched[@]}" "$@"
}

tests() {
    LD_LIBRARY_PATH=$CUDA_HOME/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
        cargo test --release --workspace --features trainer/cuda,trainer/nccl "${patched[@]}" "$@"
}

case $mode in
    test) use_toolkit && with_candle tests "$@" ;;
    build) use_toolkit && with_candle build "$@" ;;
    check) use_toolkit && with_candle clippy "$@" ;;
    lint) stand_in && with_candle clippy "$@" ;;
    run)
        use_toolkit
        LD_LIBRARY_PATH=$CUDA_HOME/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$@"
        ;;
    *)
        sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "$0" >&2
        exit 2
        ;;
esac
