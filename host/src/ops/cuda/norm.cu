// RMS and layer norms by rows, their backward, and sums of squares. See ../rms_norm.rs and
// ../layer_norm.rs.
#include "common.cuh"

// ---- RMS norm --------------------------------------------------------------------------------

// y = (x · rstd) · w; rounded product by product, so that it is the same bits wherever it is made.
template <bool WARP>
__device__ __forceinline__ void rms_scale(const float *x, const float *w, float rstd, float *y,
                                          size_t width, bool wide) {
    using T = Team<WARP>;
    walk<4>(x, wide, 0, width, T::lane(), T::lanes(), [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N], b[N];
        load<N>(x + i, a);
        load<N>(w + i, b);
#pragma unroll
        for (int j = 0; j < N; j++) a[j] = __fmul_rn(__fmul_rn(a[j], rstd), b[j]);
        store<N>(y + i, a);
    });
}

template <bool WARP>
__device__ __forceinline__ void rms_forward(const float *x, const float *w, float eps, float *y,
                                            float *rstds, size_t rows, size_t width) {
    using T = Team<WARP>;
    const size_t row = T::row();
    if (row >= rows) return;
    const bool wide = width % 4 == 0 && aligned16(x) && aligned16(w) && aligned16(y);
    x += row * width;
    y += row * width;
    float sum = 0;
    walk<4>(x, wide, 0, width, T::lane(), T::lanes(), [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N];
        load<N>(x + i, a);
#pragma unroll
        for (int j = 0; j < N; j++) sum += a[j] * a[j];
    });
    sum = T::sum(sum);
    const float rstd = 1.0f / sqrtf(sum / static_cast<float>(width) + eps);
    if (T::lane() == 0) rstds[row] = rstd;
    rms_scale<WARP>(x, w, rstd, y, width, wide);
}

template <bool WARP>
__device__ __forceinline__ void rms_recompute(const float *x, const float *w, const float *rstds,
                                              float *y, size_t rows, size_t width) {
    const size_t row = Team<WARP>::row();
    if (row >= rows) return;
    const bool wide = width % 4 == 0 && aligned16(x) && aligned16(w) && aligned16(y);
    rms_scale<WARP>(x + row * width, w, rstds[row], y + row * width, width, wide);
}

// dx = rstd · (w dy - x̂ · mean(w dy x̂)), with x̂ = x rstd.
template <bool WARP>
__device__ __forceinline__ void rms_backward(const float *dy, const float *x, const float *w,
                                             const float *rstds, float *dx, size_t rows,
                                             size_t width) {
    using T = Team<WARP>;
    const size_t row = T::row();
    if (row >= rows) return;
    const bool wide = width % 4 == 0 && aligned16(dy) && aligned16(x) && aligned16(w) && aligned16(dx);
    dy += row * width;
    x += row * width;
    dx += row * width;
    const float rstd = rstds[row];
    float sum = 0;
    walk<4>(x, wide, 0, width, T::lane(), T::lanes(), [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float g[N], a[N], b[N];
        load<N>(dy + i, g);
        load<N>(x + i, a);
        load<N>(w + i, b);
#pragma unroll
        for (int j = 0; j < N; j++) sum += g[j] * b[j] * a[j];
    });
    const float mean = T::sum(sum) * rstd / static_cast<float>(width);
    walk<4>(x, wide, 0, width, T::lane(), T::lanes(), [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float g[N], a[N], b[N];
        load<N>(dy + i, g);
        load<N>(x + i, a);
        load<N>(w + i, b);
#pragma unroll
        for (int j = 0; j < N; j++) a[j] = rstd * (g[j] * b[j] - a[j] * rstd * mean);
        store<N>(dx + i, a);
    });
}

#define RMS(NAME, WARP)                                                                            \
    extern "C" __global__ void rms_forward_##NAME(const float *x, const float *w, float eps,       \
                                                  float *y, float *rstds, size_t rows,             \
                                                  size_t width) {                                  \
        rms_forward<WARP>(x, w, eps, y, rstds, rows, width);                                       \
    }                                                                                              \
    extern "C" __global__ void rms_recompute_##NAME(const float *x, const float *w,                \
                                                    const float *rstds, float *y, size_t rows,     \
                                                    size_t width) {                                \
        rms_recompute<WARP>(x, w, rstds, y, rows, width);                                          \
    }                                                                                              \
    extern "C" __global__ void rms_backward_##NAME(const float *dy, const float *x,                \
                                                   const float *w, const float *rstds, float *dx,  \
                                                   size_t rows, size_t width) {                    \
        rms_backward<WARP>(dy, x, w, rstds, dx, rows, width);                                      \
    }

RMS(warp, true)
RMS(block, false)

// ---- layer norm ------------------------------------------------------------------------------

template <bool WARP>
__device__ __forceinline__ void layer_scale(const float *x, const float *w, const float *b,
                                            float mean, float rstd, float *y, size_t width,
                                            bool wide) {
    using T = Team<WARP>;
    walk<4>(x, wide, 0, width, T::lane(), T::lanes(), [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N], c[N], d[N];
        load<N>(x + i, a);
        load<N>(w + i, c);
        load<N>(b + i, d);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float normed = __fmul_rn(__fsub_rn(a[j], mean), rstd);
            a[j] = __fadd_rn(__fmul_rn(normed, c[j]), d[j]);
        }
        store<N>(y + i, a);
    });
}

template <bool WARP>
__device__ __forceinline__ void layer_forward(const float *x, const float *w, const float *b,
                                              float eps, float *y, float *means, float *rstds,
                                              size_t rows, size_t width) {
    using T = Team<WARP>;
    const size_t row = T::row();
    if (row >= rows) return;
    const bool wide =
        width % 4 == 0 && aligned16(x) && aligned16(w) && aligned16(b) && aligned16(y);
    x += row * width;
    y += row * width;
    float sum = 0;
    walk<4>(x, wide, 0, width, T::lane(), T::lanes(), [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N];
        load<N>(x + i, a);
#pragma unroll
        for (int j = 0; j < N; j++) sum += a[j];
    });
    const float mean = T::sum(sum) / static_cast<float>(width);
    float squares = 0;
    walk<4>(x, wide, 0, width, T::lane(), T::lanes(), [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float a[N];
        load<N>(x + i, a);
#pragma unroll
        for (int j = 0; j < N; j++) squares += (a[j] - mean) * (a[j] - mean);
    });
    const float rstd = 1.0f / sqrtf(T::sum(squares) / static_cast<float>(width) + eps);
    if (T::lane() == 0) {
        means[row] = mean;
        rstds[row] = rstd;
    }
    layer_scale<WARP>(x, w, b, mean, rstd, y, width, wide);
}

template <bool WARP>
__device__ __forceinline__ void layer_recompute(const float *x, const float *w, const float *b,
                                                const float *means, const float *rstds, float *y,
                                                size_t rows, size_t width) {
    const size_t row = Team<WARP>::row();
    if (row >= rows) return;
    const bool wide =
        width % 4 == 0 && aligned16(x) && aligned16(w) && aligned16(b) && aligned16(y);
    const size_t at = row * width;
    layer_scale<WARP>(x + at, w, b, means[row], rstds[row], y + at, width, wide);
}

// dx = rstd · (w dy - mean(w dy) - x̂ · mean(w dy x̂)), with x̂ = (x - mean) rstd.
template <bool WARP>
__device__ __forceinline__ void layer_backward(const float *dy, const float *x, const float *w,
                                               const float *means, const float *rstds, float *dx,
                                               size_t rows, size_t width) {
    using T = Team<WARP>;
    const size_t row = T::row();
    if (row >= rows) return;
    const bool wide = width % 4 == 0 && aligned16(dy) && aligned16(x) && aligned16(w) && aligned16(dx);
    dy += row * width;
    x += row * width;
    dx += row * width;
    const float mean = means[row], rstd = rstds[row], n = static_cast<float>(width);
    float sum = 0, along = 0;
    walk<4>(x, wide, 0, width, T::lane(), T::lanes(), [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float g[N], a[N], b[N];
        load<N>(dy + i, g);
        load<N>(x + i, a);
        load<N>(w + i, b);
#pragma unroll
        for (int j = 0; j < N; j++) {
            sum += g[j] * b[j];
            along += g[j] * b[j] * (a[j] - mean);
        }
    });
    sum = T::sum(sum) / n;
    along = T::sum(along) * rstd / n;
    walk<4>(x, wide, 0, width, T::lane(), T::lanes(), [&](auto count, size_t i) {
        constexpr int N = decltype(count)::value;
        float g[N], a[N], b[N];
        load<N>(dy + i, g);
        load<N>(x + i, a);
        load<N>(w + i, b);
#pragma unroll
        for (int j = 0; j < N; j++)
            a[j] = rstd * (g[j] * b[j] - sum - (a[j] - mean) * rstd * along);
        store<N>(dx + i, a);
    });
}

#define LAYER(NAME, WARP)                                                                          \
    extern "C" __global__ void layer_forward_##NAME(                                               \
        const float *x, const float *w, const float *b, float eps, float *y, float *means,         \
        float *rstds, size_t rows, size_t width) {                                                 \
        layer_forward<WARP>(x, w, b, eps, y, means, rstds, rows, width);                           \
    }                                                                                              \
    extern "C" __global__ void layer_recompute_##NAME(                                             \
        const float *x, const float *w, const float *b, const float *means, const float *rstds,    \
        float *y, size_t rows, size_t width) {                                                     \
        layer_recompute<WARP>(x, w, b, means, rstds, y, rows, width);                              \
    }                                                                                              \
    extern "C" __global__ void layer_backward_##NAME(                                              \
        const float *dy, const float *x, const float *w, const float *means, const float *rstds,   \
        float *dx, size_t rows, size_t width) {                                                    \
        layer_backward<WARP>(dy, x, w, means, rstds, dx, rows, width);                             \
    }

LAYER(warp, true)
LAYER(block, false)

// ---- sums over rows: the weights' gradients ----------------------------------------------------

// Blocks of 32 columns by 8 rows. Block (x, y) adds the rows y · stretch.. of 32 columns: a thread
// every eighth row, then the eight sums in their order. out [grid's y, width].
template <typename F>
__device__ __forceinline__ void column_sums(float *out, size_t rows, size_t width, size_t stretch,
                                            F &&value) {
    __shared__ float parts[8][32];
    const size_t column = static_cast<size_t>(blockIdx.x) * 32 + threadIdx.x;
    const size_t first = static_cast<size_t>(blockIdx.y) * stretch;
    const size_t end = rows - first < stretch ? rows : first + stretch;
    float sum = 0;
    if (column < width)
        for (size_t row = first + threadIdx.y; row < end; row += 8) sum += value(row, column);
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= width) return;
    sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += parts[i][threadIdx.x];
    out[blockIdx.y * width + column] = sum;
}

// Partial sums of dy · x · rstd.
extern "C" __global__ void rms_weight(const float *dy, const float *x, const float *rstds,
                                      float *out, size_t rows, size_t width, size_t stretch) {
    column_sums(out, rows, width, stretch, [&](size_t row, size_t column) {
        const size_t at = row * width + column;
        return dy[at] * x[at] * rstds[row];
    });
}

// Partial sums of dy · x̂.
extern "C" __global__ void layer_weight(const float *dy, const float *x, const float *means,
                                        const float *rstds, float *out, size_t rows, size_t width,
                                        size_t stretch) {
    column_sums(out, rows, width, stretch, [&](size_t row, size_t column) {
        const size_t at = row * width + column;
        return dy[at] * (x[at] - means[row]) * rstds[row];
    });
}

// Partial sums of rows; of partial sums too.
extern "C" __global__ void sum_rows(const float *x, float *out, size_t rows, size_t width,
                                    size_t stretch) {
    column_sums(out, rows, width, stretch,
                [&](size_t row, size_t column) { return x[row * width + column]; });
}

// ---- sums of squares ---------------------------------------------------------------------------

// out [blocks], f64: the squares of every blocks-th stretch of a block's threads.
template <typename T>
__device__ __forceinline__ void square_sums(const T *x, double *out, size_t n) {
    double sum = 0;
    walk<Wide<T>::value>(x, true, 0, n, static_cast<unsigned>(grid_thread()),
                         static_cast<unsigned>(grid_threads()), [&](auto count, size_t i) {
                             constexpr int N = decltype(count)::value;
                             float a[N];
                             load<N>(x + i, a);
#pragma unroll
                             for (int j = 0; j < N; j++) {
                                 const double v = a[j];
                                 sum += v * v;
                             }
                         });
    sum = Team<false>::sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

extern "C" __global__ void square_sums_f32(const float *x, double *out, size_t n) {
    square_sums(x, out, n);
}
extern "C" __global__ void square_sums_bf16(const __nv_bfloat16 *x, double *out, size_t n) {
    square_sums(x, out, n);
}
extern "C" __global__ void square_sums_f16(const __half *x, double *out, size_t n) {
    square_sums(x, out, n);
}

// One block: out [1] = the sum of x [n].
extern "C" __global__ void sum_f64(const double *x, double *out, size_t n) {
    double sum = 0;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sum = Team<false>::sum(sum);
    if (threadIdx.x == 0) out[0] = sum;
}
