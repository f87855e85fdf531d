// The MLP's non-linearity, alone or on a gate. See ../activation.rs.
#include "common.cuh"

// f(x) and f'(x).
struct Pair {
    float value, slope;
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

struct Silu {
    static __device__ __forceinline__ Pair at(float x) {
        const float s = sigmoid(x);
        return {x * s, s * (1.0f + x * (1.0f - s))};
    }
};

struct Gelu {
    static __device__ __forceinline__ Pair at(float x) {
        const float below = 0.5f * erfcf(-x * 0.707106781f);
        const float density = 0.3989423f * expf(-0.5f * x * x);
        return {x * below, below + x * density};
    }
};

// By ½ (1 + tanh u) = σ(2 u).
struct GeluTanh {
    static __device__ __forceinline__ Pair at(float x) {
        const float twice_root = 2.0f * 0.7978846f, cubic = 0.044715f;
        const float s = sigmoid(twice_root * (x + cubic * x * x * x));
        const float inner = twice_root * (1.0f + 3.0f * cubic * x * x);
        return {x * s, s + x * s * (1.0f - s) * inner};
    }
};

struct Relu {
    static __device__ __forceinline__ Pair at(float x) {
        return x > 0.0f ? Pair{x, 1.0f} : Pair{0.0f, 0.0f};
    }
};

template <typename Act, bool GATED>
__device__ __forceinline__ void forward(const float *x, const float *up, float *y, size_t n) {
    const bool wide = aligned16(x) && aligned16(y) && (!GATED || aligned16(up));
    const size_t threads = grid_threads();
    walk<4>(x, wide, 0, n, static_cast<unsigned>(grid_thread()), static_cast<unsigned>(threads),
            [&](auto count, size_t i) {
                constexpr int N = decltype(count)::value;
                float a[N];
                load<N>(x + i, a);
#pragma unroll
                for (int j = 0; j < N; j++) a[j] = Act::at(a[j]).value;
                if (GATED) {
                    float u[N];
                    load<N>(up + i, u);
#pragma unroll
                    for (int j = 0; j < N; j++) a[j] *= u[j];
                }
                store<N>(y + i, a);
            });
}

template <typename Act, bool GATED>
__device__ __forceinline__ void backward(const float *dy, const float *x, const float *up,
                                         float *dx, float *dup, size_t n) {
    const bool wide = aligned16(dy) && aligned16(x) && aligned16(dx) &&
                      (!GATED || (aligned16(up) && aligned16(dup)));
    walk<4>(x, wide, 0, n, static_cast<unsigned>(grid_thread()),
            static_cast<unsigned>(grid_threads()), [&](auto count, size_t i) {
                constexpr int N = decltype(count)::value;
                float g[N], a[N];
                load<N>(dy + i, g);
                load<N>(x + i, a);
                if (GATED) {
                    float u[N], du[N];
                    load<N>(up + i, u);
#pragma unroll
                    for (int j = 0; j < N; j++) {
                        const Pair f = Act::at(a[j]);
                        du[j] = g[j] * f.value;
                        a[j] = g[j] * u[j] * f.slope;
                    }
                    store<N>(dup + i, du);
                } else {
#pragma unroll
                    for (int j = 0; j < N; j++) a[j] = g[j] * Act::at(a[j]).slope;
                }
                store<N>(dx + i, a);
            });
}

#define ACTIVATION(NAME, ACT)                                                                      \
    extern "C" __global__ void forward_##NAME(const float *x, float *y, size_t n) {                \
        forward<ACT, false>(x, nullptr, y, n);                                                     \
    }                                                                                              \
    extern "C" __global__ void forward_##NAME##_gated(const float *x, const float *up, float *y,   \
                                                      size_t n) {                                  \
        forward<ACT, true>(x, up, y, n);                                                           \
    }                                                                                              \
    extern "C" __global__ void backward_##NAME(const float *dy, const float *x, float *dx,         \
                                               size_t n) {                                         \
        backward<ACT, false>(dy, x, nullptr, dx, nullptr, n);                                      \
    }                                                                                              \
    extern "C" __global__ void backward_##NAME##_gated(const float *dy, const float *x,            \
                                                       const float *up, float *dx, float *dup,     \
                                                       size_t n) {                                 \
        backward<ACT, true>(dy, x, up, dx, dup, n);                                                \
    }

ACTIVATION(silu, Silu)
ACTIVATION(gelu, Gelu)
ACTIVATION(gelu_tanh, GeluTanh)
ACTIVATION(relu, Relu)
