// Frozen matrices in 8 and 4 bits, widened. See ../quant/int8.rs and ../quant/nf4.rs. Operations are
// rounded one by one, as on the CPU: the same bits.
#include "common.cuh"

// A block a row: to [rows, width] = values · scale · 1/127; values [rows, width], scales [rows].
template <typename T>
__device__ __forceinline__ void int8_row(const int8_t *values, const float *scales, T *to,
                                         size_t width) {
    const size_t row = blockIdx.x;
    const float scale = scales[row];
    values += row * width;
    to += row * width;
    // N bytes are read where 16 are written.
    constexpr int N = Wide<T>::value;
    const bool wide =
        width % N == 0 && reinterpret_cast<uintptr_t>(values) % N == 0 && aligned16(to);
    const auto one = [&](int8_t v) {
        return narrow<T>(__fmul_rn(__fmul_rn(static_cast<float>(v), scale), 7.874016e-3f));
    };
    if (!wide) {
        for (size_t i = threadIdx.x; i < width; i += blockDim.x) to[i] = one(values[i]);
        return;
    }
    for (size_t i = static_cast<size_t>(threadIdx.x) * N; i < width;
         i += static_cast<size_t>(blockDim.x) * N) {
        const Pack<int8_t, N> bytes = Pack<int8_t, N>::at(values + i);
        Pack<T, N> pack;
#pragma unroll
        for (int j = 0; j < N; j++) pack.values[j] = one(bytes.values[j]);
        pack.to(to + i);
    }
}

__constant__ const float CODE[16] = {
    -1.0f,      -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f,
    -0.091050036f, 0.0f,     0.0795803f,   0.1609302f,  0.2461123f,   0.33791524f,
    0.44070983f, 0.562617f,  0.72295684f,  1.0f,
};

// Scales of blocks of 64 values: as they are, or numbers of `code` with a scale for 256 of them.
struct Scales {
    const float *plain;
    const uint8_t *indices;
    const float *code;
    const float *nested;
    float offset;
};

template <bool NESTED>
__device__ __forceinline__ float scale_of(const Scales &s, size_t block) {
    if (!NESTED) return s.plain[block];
    return __fadd_rn(__fmul_rn(s.code[s.indices[block]], s.nested[block / 256]), s.offset);
}

// to [n]; packed: two values a byte, the first in the high half. A thread and step: the values of 16
// bytes, which are of one block.
template <typename T, bool NESTED>
__device__ __forceinline__ void nf4_flat(const uint8_t *packed, const Scales &scales, T *to,
                                         size_t n) {
    __shared__ float code[16];
    if (threadIdx.x < 16) code[threadIdx.x] = CODE[threadIdx.x];
    __syncthreads();
    constexpr int N = Wide<T>::value;
    const bool wide = reinterpret_cast<uintptr_t>(packed) % (N / 2) == 0 && aligned16(to);
    const size_t groups = (n + N - 1) / N;
    for (size_t group = grid_thread(); group < groups; group += grid_threads()) {
        const size_t at = group * N;
        const float scale = scale_of<NESTED>(scales, at / 64);
        if (wide && at + N <= n) {
            const Pack<uint8_t, N / 2> bytes = Pack<uint8_t, N / 2>::at(packed + at / 2);
            Pack<T, N> pack;
#pragma unroll
            for (int j = 0; j < N / 2; j++) {
                pack.values[2 * j] = narrow<T>(__fmul_rn(code[bytes.values[j] >> 4], scale));
                pack.values[2 * j + 1] = narrow<T>(__fmul_rn(code[bytes.values[j] & 15], scale));
            }
            pack.to(to + at);
        } else {
            for (size_t i = at; i < n && i < at + N; i++) {
                const uint8_t byte = packed[i / 2];
                to[i] = narrow<T>(__fmul_rn(code[i % 2 == 0 ? byte >> 4 : byte & 15], scale));
            }
        }
    }
}

#define QUANT(NAME, T)                                                                             \
    extern "C" __global__ void int8_##NAME(const int8_t *values, const float *scales, T *to,       \
                                           size_t width) {                                         \
        int8_row(values, scales, to, width);                                                       \
    }                                                                                              \
    extern "C" __global__ void nf4_plain_##NAME(const uint8_t *packed, const float *plain, T *to,  \
                                                size_t n) {                                        \
        const Scales scales = {plain, nullptr, nullptr, nullptr, 0.0f};                            \
        nf4_flat<T, false>(packed, scales, to, n);                                                 \
    }                                                                                              \
    extern "C" __global__ void nf4_nested_##NAME(const uint8_t *packed, const uint8_t *indices,    \
                                                 const float *code, const float *nested,           \
                                                 float offset, T *to, size_t n) {                  \
        const Scales scales = {nullptr, indices, code, nested, offset};                            \
        nf4_flat<T, true>(packed, scales, to, n);                                                  \
    }

QUANT(f32, float)
QUANT(bf16, __nv_bfloat16)
QUANT(f16, __half)
