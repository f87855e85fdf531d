// One update of AdamW, operation for operation as ../../optim/adamw.rs: each is rounded by itself, so
// that the results are the CPU's to the bit.
#include "common.cuh"

struct Numbers {
    float keep, one_minus_beta1, beta2, one_minus_beta2, step_size, bias2_sqrt, eps, grad_scale;
};

// p, m, v, g [n]; all but g change.
extern "C" __global__ void adamw(float *p, float *m, float *v, const float *g, size_t n,
                                 Numbers u) {
    const bool wide = aligned16(p) && aligned16(m) && aligned16(v) && aligned16(g);
    walk<4>(p, wide, 0, n, static_cast<unsigned>(grid_thread()),
            static_cast<unsigned>(grid_threads()), [&](auto count, size_t i) {
                constexpr int N = decltype(count)::value;
                float a[N], b[N], c[N], d[N];
                load<N>(p + i, a);
                load<N>(m + i, b);
                load<N>(v + i, c);
                load<N>(g + i, d);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    const float grad = __fmul_rn(d[j], u.grad_scale);
                    b[j] = __fadd_rn(b[j], __fmul_rn(__fsub_rn(grad, b[j]), u.one_minus_beta1));
                    c[j] = __fadd_rn(__fmul_rn(c[j], u.beta2),
                                     __fmul_rn(__fmul_rn(grad, grad), u.one_minus_beta2));
                    const float denominator =
                        __fadd_rn(__fdiv_rn(__fsqrt_rn(c[j]), u.bias2_sqrt), u.eps);
                    a[j] = __fsub_rn(__fmul_rn(a[j], u.keep),
                                     __fmul_rn(u.step_size, __fdiv_rn(b[j], denominator)));
                }
                store<N>(p + i, a);
                store<N>(m + i, b);
                store<N>(v + i, c);
            });
}
