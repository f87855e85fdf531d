// Rotary position embedding. See ../rope.rs. Products and sums are rounded one by one, as on the
// CPU: the same bits.
#include "common.cuh"

enum Layout { HALVES, INTERLEAVED, TWO_HALVES };

// Places of the two values of pair k of a head.
template <int LAYOUT>
__device__ __forceinline__ void places(unsigned k, unsigned pairs, unsigned &first,
                                       unsigned &second) {
    if (LAYOUT == INTERLEAVED) {
        first = 2 * k;
        second = 2 * k + 1;
    } else if (LAYOUT == HALVES) {
        first = k;
        second = k + pairs;
    } else {
        const unsigned n = pairs / 2;
        first = k < n ? k : k + n;
        second = first + n;
    }
}

// A block a token. x, y [tokens, width]; cos, sin [positions, pairs]; rows [tokens]. A row beyond
// the table makes NaN of its token.
template <int LAYOUT>
__device__ __forceinline__ void rotate(const float *x, const float *cos, const float *sin,
                                       const uint32_t *rows, float *y, size_t width,
                                       unsigned head_dim, unsigned pairs, unsigned positions,
                                       float sign) {
    const size_t token = blockIdx.x;
    x += token * width;
    y += token * width;
    const uint32_t row = rows[token];
    if (row >= positions) {
        for (size_t i = threadIdx.x; i < width; i += blockDim.x) y[i] = not_a_number();
        return;
    }
    cos += static_cast<size_t>(row) * pairs;
    sin += static_cast<size_t>(row) * pairs;
    const unsigned heads = static_cast<unsigned>(width / head_dim);
    const bool wide = LAYOUT == HALVES && pairs % 4 == 0 && head_dim % 4 == 0 && aligned16(x) &&
                      aligned16(y) && aligned16(cos) && aligned16(sin);
    if (wide) {
        const unsigned quads = pairs / 4;
        for (unsigned u = threadIdx.x; u < heads * quads; u += blockDim.x) {
            const unsigned k = u % quads * 4;
            const size_t first = static_cast<size_t>(u / quads) * head_dim + k;
            float a[4], b[4], c[4], s[4], p[4], q[4];
            load<4>(x + first, a);
            load<4>(x + first + pairs, b);
            load<4>(cos + k, c);
            load<4>(sin + k, s);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[j] *= sign;
                p[j] = __fsub_rn(__fmul_rn(a[j], c[j]), __fmul_rn(b[j], s[j]));
                q[j] = __fadd_rn(__fmul_rn(b[j], c[j]), __fmul_rn(a[j], s[j]));
            }
            store<4>(y + first, p);
            store<4>(y + first + pairs, q);
        }
    } else {
        for (unsigned u = threadIdx.x; u < heads * pairs; u += blockDim.x) {
            const unsigned k = u % pairs;
            const size_t head = static_cast<size_t>(u / pairs) * head_dim;
            unsigned first, second;
            places<LAYOUT>(k, pairs, first, second);
            const float a = x[head + first], b = x[head + second];
            const float c = cos[k], s = sin[k] * sign;
            y[head + first] = __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
            y[head + second] = __fadd_rn(__fmul_rn(b, c), __fmul_rn(a, s));
        }
    }
    const unsigned kept = head_dim - 2 * pairs;
    for (unsigned u = threadIdx.x; u < heads * kept; u += blockDim.x) {
        const size_t at = static_cast<size_t>(u / kept) * head_dim + 2 * pairs + u % kept;
        y[at] = x[at];
    }
}

#define ROPE(NAME, LAYOUT)                                                                         \
    extern "C" __global__ void rope_##NAME(const float *x, const float *cos, const float *sin,     \
                                           const uint32_t *rows, float *y, size_t width,           \
                                           unsigned head_dim, unsigned pairs, unsigned positions,  \
                                           float sign) {                                           \
        rotate<LAYOUT>(x, cos, sin, rows, y, width, head_dim, pairs, positions, sign);             \
    }

ROPE(halves, HALVES)
ROPE(interleaved, INTERLEAVED)
ROPE(two_halves, TWO_HALVES)
