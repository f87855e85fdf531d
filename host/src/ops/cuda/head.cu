// Rows of logits: the target's log-probability, the entropy, whether no token is more likely, and
// the gradient in place. See ../cpu/head.rs.
#include "common.cuh"

// Of some logits: the greatest, the sum of e = exp(v - max), and the sum of e · (v - max).
struct Part {
    float max, sum, product;
};

// The sums of `a` as seen from the greatest value `max` ≥ a.max.
__device__ __forceinline__ Part seen_from(Part a, float max) {
    // Nothing but impossible tokens so far: the sums are 0 (or NaN), whatever the maximum.
    if (a.max == max || a.max == minus_infinity()) return {max, a.sum, a.product};
    const float shift = a.max - max, factor = expf(shift);
    // So far away that nothing is left; the product would be infinity times zero.
    if (factor == 0.0f) return {max, 0.0f * a.sum, 0.0f * a.sum};
    return {max, __fmul_rn(factor, a.sum),
            __fmul_rn(factor, __fadd_rn(a.product, __fmul_rn(shift, a.sum)))};
}

__device__ __forceinline__ Part merged(Part a, Part b) {
    const float max = a.max > b.max ? a.max : b.max;
    const Part c = seen_from(a, max), d = seen_from(b, max);
    // No product is fused into these sums: merged(a, b) and merged(b, a) are the same bits.
    return {max, __fadd_rn(c.sum, d.sum), __fadd_rn(c.product, d.product)};
}

__device__ __forceinline__ Part other(Part a, int offset) {
    return {__shfl_xor_sync(FULL_MASK, a.max, offset), __shfl_xor_sync(FULL_MASK, a.sum, offset),
            __shfl_xor_sync(FULL_MASK, a.product, offset)};
}

// A block a row of logits [rows, vocab], which become the gradient where `coefficients` [rows] is
// there; targets [rows]; scores [rows, 3]. A target beyond the row scores NaN.
template <typename T>
__device__ __forceinline__ void score_row(T *logits, const uint32_t *targets,
                                          const float *coefficients, float *scores,
                                          size_t vocab) {
    __shared__ Part parts[32];
    __shared__ float at_target;
    const size_t row = blockIdx.x;
    T *v = logits + row * vocab;
    const uint32_t target = targets[row];
    constexpr int WIDE = Wide<T>::value;
    if (threadIdx.x == 0) at_target = target < vocab ? widen(v[target]) : not_a_number();

    Part own = {minus_infinity(), 0.0f, 0.0f};
    walk<WIDE>(v, true, 0, vocab, threadIdx.x, blockDim.x, [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N];
        load<N>(v + i, a);
        float max = own.max;
#pragma unroll
        for (int j = 0; j < N; j++) max = a[j] > max ? a[j] : max;
        if (max > own.max) own = seen_from(own, max);
#pragma unroll
        for (int j = 0; j < N; j++) {
            if (a[j] == minus_infinity()) continue;
            const float shifted = a[j] - max, e = expf(shifted);
            own.sum += e;
            // What is as good as impossible adds nothing; infinity times zero would be NaN.
            own.product += e > 0.0f ? e * shifted : e;
        }
    });

    // Every thread of a warp, then every warp, in a fixed order.
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) own = merged(own, other(own, offset));
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) parts[warp] = own;
    __syncthreads();
    own = lane < blockDim.x / 32 ? parts[lane] : Part{minus_infinity(), 0.0f, 0.0f};
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) own = merged(own, other(own, offset));
    // Both halves of a merge add the same two numbers: every thread has the same bits.

    if (threadIdx.x == 0) {
        const float log_sum = logf(own.sum);
        scores[row * 3] = at_target - own.max - log_sum;
        scores[row * 3 + 1] = log_sum - own.product / own.sum;
        scores[row * 3 + 2] = at_target >= own.max ? 1.0f : 0.0f;
    }
    if (coefficients == nullptr) return;
    // at_target was read before the barrier above; no thread writes logits before it.
    const float coefficient = coefficients[row], max = own.max;
    const float factor = -coefficient / own.sum;
    walk<WIDE>(v, true, 0, vocab, threadIdx.x, blockDim.x, [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N];
        load<N>(v + i, a);
#pragma unroll
        for (int j = 0; j < N; j++) {
            a[j] = expf(a[j] - max) * factor;
            if (i + j == target) a[j] += coefficient;
        }
        store<N>(v + i, a);
    });
}

#define HEAD(NAME, T)                                                                              \
    extern "C" __global__ void __launch_bounds__(512)                                              \
        score_##NAME(T *logits, const uint32_t *targets, const float *coefficients, float *scores, \
                     size_t vocab) {                                                               \
        score_row(logits, targets, coefficients, scores, vocab);                                   \
    }

HEAD(f32, float)
HEAD(bf16, __nv_bfloat16)
HEAD(f16, __half)
