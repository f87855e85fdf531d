// What the kernels share. Every result is a pure function of the inputs and the sizes: no atomics,
// no order that depends on scheduling or on the device.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FULL_MASK 0xffffffffu

// ---- numbers -------------------------------------------------------------------------------

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fc00000); }

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }

// To the nearest, ties to even.
template <typename T> __device__ __forceinline__ T narrow(float v);
template <> __device__ __forceinline__ float narrow<float>(float v) { return v; }
template <> __device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
    return __float2bfloat16_rn(v);
}
template <> __device__ __forceinline__ __half narrow<__half>(float v) { return __float2half_rn(v); }

// ---- memory --------------------------------------------------------------------------------

// What one instruction moves.
template <int BYTES> struct Word;
template <> struct Word<1> { using Type = unsigned char; };
template <> struct Word<2> { using Type = unsigned short; };
template <> struct Word<4> { using Type = unsigned int; };
template <> struct Word<8> { using Type = uint2; };
template <> struct Word<16> { using Type = uint4; };

// N values that one instruction moves; their address is a multiple of their size.
template <typename T, int N> struct alignas(N * sizeof(T)) Pack {
    T values[N];

    using Whole = typename Word<N * sizeof(T)>::Type;
    static __device__ __forceinline__ Pack at(const T *from) {
        const Whole word = *reinterpret_cast<const Whole *>(from);
        Pack pack;
        memcpy(&pack, &word, sizeof(pack));
        return pack;
    }
    __device__ __forceinline__ void to(T *to) const {
        Whole word;
        memcpy(&word, this, sizeof(word));
        // The compiler takes a plain assignment apart into single values at times.
        __stwb(reinterpret_cast<Whole *>(to), word);
    }
};

// Values of T in 16 bytes.
template <typename T> struct Wide { static constexpr int value = 16 / sizeof(T); };

template <int N> struct Count { static constexpr int value = N; };

template <int N, typename T> __device__ __forceinline__ void load(const T *from, float (&to)[N]) {
    const Pack<T, N> pack = Pack<T, N>::at(from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = widen(pack.values[i]);
}

template <int N, typename T> __device__ __forceinline__ void store(T *to, const float (&from)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) pack.values[i] = narrow<T>(from[i]);
    pack.to(to);
}

__device__ __forceinline__ bool aligned16(const void *p) {
    return (reinterpret_cast<uintptr_t>(p) & 15) == 0;
}

// Indices begin..end, those of lane `lane` of `lanes`: f(Count<1>, i) for single values and
// f(Count<N>, i) for N of them, where `at + i` is a multiple of N values. All arrays that f touches
// must lie alike (the same address modulo 16 bytes); where they don't, `alike` is false.
template <int N, typename T, typename F>
__device__ __forceinline__ void walk(const T *at, bool alike, size_t begin, size_t end,
                                     unsigned lane, unsigned lanes, F &&f) {
    size_t head = end;
    if (alike) {
        const size_t past = (reinterpret_cast<uintptr_t>(at + begin) & (N * sizeof(T) - 1)) / sizeof(T);
        head = begin + (past == 0 ? 0 : N - past);
        if (head > end) head = end;
    }
    const size_t body = head + (end - head) / N * N, before = head - begin;
    for (size_t i = head + static_cast<size_t>(lane) * N; i < body;
         i += static_cast<size_t>(lanes) * N)
        f(Count<N>{}, i);
    // Those before and behind in one loop: half the code.
    const size_t single = before + (end - body);
#pragma unroll 1
    for (size_t i = lane; i < single; i += lanes)
        f(Count<1>{}, i < before ? begin + i : body + (i - before));
}

__device__ __forceinline__ size_t grid_thread() {
    return static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ size_t grid_threads() {
    return static_cast<size_t>(gridDim.x) * blockDim.x;
}

// ---- sums over the threads of a row ----------------------------------------------------------

template <typename V> __device__ __forceinline__ V warp_sum(V v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(FULL_MASK, v, offset);
    return v;
}

// The threads of a row: a warp (several rows a block) or a whole block of up to 1024 threads.
template <bool WARP> struct Team {
    static __device__ __forceinline__ size_t row() {
        if (WARP) return static_cast<size_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
        return blockIdx.x;
    }
    static __device__ __forceinline__ unsigned lane() {
        return WARP ? threadIdx.x % 32 : threadIdx.x;
    }
    static __device__ __forceinline__ unsigned lanes() { return WARP ? 32 : blockDim.x; }

    // The sum over the row's threads, the same bits in each. All of them must call it.
    template <typename V> static __device__ __forceinline__ V sum(V v) {
        v = warp_sum(v);
        if (WARP) return v;
        __shared__ V parts[32];
        const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        __syncthreads();
        if (lane == 0) parts[warp] = v;
        __syncthreads();
        v = lane < blockDim.x / 32 ? parts[lane] : V(0);
        return warp_sum(v);
    }
};
