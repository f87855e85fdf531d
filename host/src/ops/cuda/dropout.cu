// Inverted dropout by a hash of the row's key and the column. See ../dropout.rs.
#include "common.cuh"

// The finaliser of MurmurHash3.
__device__ __forceinline__ uint32_t mix32(uint32_t h) {
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    return h ^ (h >> 16);
}

// A block a row of x, y [rows, width]; keys [rows].
extern "C" __global__ void dropout(const float *x, const uint32_t *keys, float *y, size_t width,
                                   uint32_t threshold, float scale) {
    const size_t row = blockIdx.x;
    const uint32_t key = keys[row];
    x += row * width;
    y += row * width;
    const bool alike = ((reinterpret_cast<uintptr_t>(x) ^ reinterpret_cast<uintptr_t>(y)) & 15) == 0;
    walk<4>(x, alike, 0, width, threadIdx.x, blockDim.x, [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N];
        load<N>(x + i, a);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const uint32_t hash = mix32(static_cast<uint32_t>(i + j) * 0x9E3779B9u ^ key);
            a[j] = hash >= threshold ? a[j] * scale : 0.0f;
        }
        store<N>(y + i, a);
    });
}
