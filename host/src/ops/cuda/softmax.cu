// Attention's scores: scaled, capped, tilted, masked and normalised by rows; and their backward. See
// ../attention.rs.
#include "common.cuh"

struct Spec {
    float scale;
    // 0: no cap.
    float softcap;
    // Positions of the first query and the first key.
    uint32_t first_query, first_key;
    // A position sees itself and the window - 1 before it; all positions see the first `prefix`.
    uint32_t window, prefix;
};

// What a row of scores is to its kernel.
struct Row {
    // Visible keys are begin..end of this row's.
    size_t begin, end;
    // Position of key 0 minus the query's.
    float distance;
    float slope;
};

// Row `row` of [batch, heads, queries, keys].
__device__ __forceinline__ Row row_of(const Spec &spec, const float *slopes, uint32_t row,
                                      uint32_t heads, uint32_t queries, uint32_t keys) {
    const uint32_t query = row % queries, head = row / queries % heads;
    const int64_t position = static_cast<int64_t>(spec.first_query) + query;
    int64_t low = position + 1 - static_cast<int64_t>(spec.window);
    if (low < 0) low = 0;
    int64_t end = position + 1;
    if (end < spec.prefix) end = spec.prefix;
    low -= spec.first_key;
    end -= spec.first_key;
    if (low < 0) low = 0;
    if (end > keys) end = keys;
    if (end < low) {
        // Nothing to see.
        low = 0;
        end = 0;
    }
    Row out;
    out.begin = static_cast<size_t>(low);
    out.end = static_cast<size_t>(end);
    out.distance = static_cast<float>(static_cast<int64_t>(spec.first_key) - position);
    out.slope = slopes == nullptr ? 0.0f : slopes[head];
    return out;
}

// The score as it enters the softmax; `tanh` is that of the cap, 0 without one.
__device__ __forceinline__ float transformed(const Spec &spec, const Row &row, float score,
                                             size_t key, float &tanh) {
    float s = score * spec.scale;
    tanh = 0.0f;
    if (spec.softcap > 0.0f) {
        tanh = tanhf(s / spec.softcap);
        s = spec.softcap * tanh;
    }
    // The distance is a whole number below 2^24: exact.
    if (row.slope != 0.0f) s += row.slope * (static_cast<float>(key) + row.distance);
    return s;
}

// The greatest of some values and the sum of exp(v - max).
struct Part {
    float max, sum;
};

__device__ __forceinline__ Part merged(Part a, Part b) {
    const float max = a.max > b.max ? a.max : b.max;
    // A part that saw nothing but -inf has the sum 0 (or NaN).
    const bool same_a = a.max == max || a.max == minus_infinity();
    const bool same_b = b.max == max || b.max == minus_infinity();
    const float c = same_a ? a.sum : __fmul_rn(a.sum, expf(a.max - max));
    const float d = same_b ? b.sum : __fmul_rn(b.sum, expf(b.max - max));
    // No product is fused into the sum: merged(a, b) and merged(b, a) are the same bits.
    return {max, __fadd_rn(c, d)};
}

__device__ __forceinline__ Part warp_merged(Part a) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        a = merged(a, {__shfl_xor_sync(FULL_MASK, a.max, offset),
                       __shfl_xor_sync(FULL_MASK, a.sum, offset)});
    return a;
}

template <bool WARP> __device__ __forceinline__ Part team_merged(Part a) {
    a = warp_merged(a);
    if (WARP) return a;
    __shared__ Part parts[32];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) parts[warp] = a;
    __syncthreads();
    return warp_merged(lane < blockDim.x / 32 ? parts[lane] : Part{minus_infinity(), 0.0f});
}

// scores and p [rows, keys] may be the same memory; lse [rows].
template <typename T, bool WARP>
__device__ __forceinline__ void forward(const T *scores, const float *slopes, T *p, float *lse,
                                        uint32_t rows, uint32_t heads, uint32_t queries,
                                        uint32_t keys, const Spec &spec) {
    using Threads = Team<WARP>;
    if (Threads::row() >= rows) return;
    const uint32_t index = static_cast<uint32_t>(Threads::row());
    const unsigned lane = Threads::lane(), lanes = Threads::lanes();
    const Row row = row_of(spec, slopes, index, heads, queries, keys);
    scores += static_cast<size_t>(index) * keys;
    p += static_cast<size_t>(index) * keys;
    constexpr int WIDE = Wide<T>::value;

    Part own = {minus_infinity(), 0.0f};
    walk<WIDE>(scores, true, row.begin, row.end, lane, lanes, [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N], tanh;
        load<N>(scores + i, a);
        float max = own.max;
#pragma unroll
        for (int j = 0; j < N; j++) {
            a[j] = transformed(spec, row, a[j], i + j, tanh);
            max = a[j] > max ? a[j] : max;
        }
        if (max > own.max) {
            if (own.max != minus_infinity()) own.sum *= expf(own.max - max);
            own.max = max;
        }
#pragma unroll
        for (int j = 0; j < N; j++)
            if (a[j] != minus_infinity()) own.sum += expf(a[j] - max);
    });
    own = team_merged<WARP>(own);
    if (lane == 0) lse[index] = own.max + logf(own.sum);

    const float max = own.max, sum = own.sum;
    const bool alike =
        ((reinterpret_cast<uintptr_t>(scores) ^ reinterpret_cast<uintptr_t>(p)) & 15) == 0;
    walk<WIDE>(scores, alike, row.begin, row.end, lane, lanes, [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N], tanh;
        load<N>(scores + i, a);
#pragma unroll
        for (int j = 0; j < N; j++)
            a[j] = expf(transformed(spec, row, a[j], i + j, tanh) - max) / sum;
        store<N>(p + i, a);
    });
    const auto zero = [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        const float none[N] = {};
        store<N>(p + i, none);
    };
    walk<WIDE>(p, true, 0, row.begin, lane, lanes, zero);
    walk<WIDE>(p, true, row.end, keys, lane, lanes, zero);
}

// p and ds may be the memory of scores and dp, one each.
template <typename T, bool WARP>
__device__ __forceinline__ void backward(const T *scores, const T *dp, const float *slopes,
                                         const float *lses, const float *deltas, T *p, T *ds,
                                         uint32_t rows, uint32_t heads, uint32_t queries,
                                         uint32_t keys, const Spec &spec) {
    using Threads = Team<WARP>;
    if (Threads::row() >= rows) return;
    const uint32_t index = static_cast<uint32_t>(Threads::row());
    const unsigned lane = Threads::lane(), lanes = Threads::lanes();
    const Row row = row_of(spec, slopes, index, heads, queries, keys);
    const size_t start = static_cast<size_t>(index) * keys;
    scores += start;
    dp += start;
    p += start;
    ds += start;
    const float lse = lses[index], delta = deltas[index];
    constexpr int WIDE = Wide<T>::value;
    const uintptr_t place = reinterpret_cast<uintptr_t>(p);
    const bool alike = (((reinterpret_cast<uintptr_t>(scores) ^ place) |
                         (reinterpret_cast<uintptr_t>(dp) ^ place) |
                         (reinterpret_cast<uintptr_t>(ds) ^ place)) &
                        15) == 0;
    walk<WIDE>(p, alike, row.begin, row.end, lane, lanes, [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N], b[N];
        load<N>(scores + i, a);
        load<N>(dp + i, b);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float tanh;
            a[j] = expf(transformed(spec, row, a[j], i + j, tanh) - lse);
            b[j] = a[j] * (b[j] - delta) * spec.scale;
            if (spec.softcap > 0.0f) b[j] *= 1.0f - tanh * tanh;
        }
        store<N>(p + i, a);
        store<N>(ds + i, b);
    });
    const auto zero = [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        const float none[N] = {};
        store<N>(p + i, none);
        store<N>(ds + i, none);
    };
    walk<WIDE>(p, alike, 0, row.begin, lane, lanes, zero);
    walk<WIDE>(p, alike, row.end, keys, lane, lanes, zero);
}

#define SOFTMAX(NAME, T, TEAM, WARP)                                                               \
    extern "C" __global__ void softmax_##NAME##_##TEAM(                                            \
        const T *scores, const float *slopes, T *p, float *lse, uint32_t rows, uint32_t heads,     \
        uint32_t queries, uint32_t keys, Spec spec) {                                              \
        forward<T, WARP>(scores, slopes, p, lse, rows, heads, queries, keys, spec);                \
    }                                                                                              \
    extern "C" __global__ void softmax_backward_##NAME##_##TEAM(                                   \
        const T *scores, const T *dp, const float *slopes, const float *lse, const float *delta,   \
        T *p, T *ds, uint32_t rows, uint32_t heads, uint32_t queries, uint32_t keys, Spec spec) {  \
        backward<T, WARP>(scores, dp, slopes, lse, delta, p, ds, rows, heads, queries, keys,       \
                          spec);                                                                   \
    }

SOFTMAX(f32, float, warp, true)
SOFTMAX(f32, float, block, false)
SOFTMAX(bf16, __nv_bfloat16, warp, true)
SOFTMAX(bf16, __nv_bfloat16, block, false)
SOFTMAX(f16, __half, warp, true)
SOFTMAX(f16, __half, block, false)
