//! What only a GPU can show; skipped where there is none.
#![allow(clippy::unwrap_used)]

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use candle_core::{DType, Device, Tensor};

use super::spec::{DecoderSpec, Sizes};
use super::{Decoder, GradSet, ParamSet, TokenBatch, Weights};
use crate::device::{self, DeviceChoice};
use crate::ops::{Exec, Half, head};

fn gpu() -> Option<Device> {
    match device::open(DeviceChoice::Cuda(None)) {
        Ok(device) => Some(device),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

fn decoder(device: &Device) -> (Decoder, ParamSet) {
    let spec = DecoderSpec::llama(Sizes {
        vocab_size: 300,
        hidden_size: 64,
        intermediate_size: 112,
        num_layers: 3,
        num_heads: 4,
        num_kv_heads: 2,
        max_position_embeddings: 256,
    });
    let weights = Weights::random(&spec, 7, DType::F32, device).unwrap();
    let mut decoder = Decoder::new(spec, weights, device, 256).unwrap();
    let params = decoder.train_all();
    (decoder, params)
}

fn batch() -> TokenBatch {
    let ids = |n: u32, seed: u32| -> Vec<u32> { (0..n).map(|i| (i * 37 + seed) % 300).collect() };
    let (a, b, c) = (ids(90, 1), ids(23, 5), ids(88, 11));
    let mut batch = TokenBatch::from_ids(&[&a, &b, &c]);
    batch.labels = batch.input_ids.iter().map(|&id| id as i32).collect();
    batch
}

/// Logprobs and gradients of a step.
fn step(decoder: &Decoder, params: &ParamSet) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut grads = GradSet::new(params.params.len());
    let scored =
        decoder.score_and_backward(params, &batch(), Some(3), |_| -0.01, &mut grads).unwrap();
    let values = |t: Option<Tensor>| t.unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (scored.scores.logprobs, grads.grads.into_iter().map(values).collect())
}

fn length(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// Length of the difference over the length of `want`.
fn apart(got: &[f32], want: &[f32]) -> f64 {
    let difference: Vec<f32> = got.iter().zip(want).map(|(g, w)| g - w).collect();
    length(&difference) / length(want).max(1e-12)
}

#[test]
fn a_gpu_step_is_the_cpu_step() {
    let Some(gpu) = gpu() else { return };
    let (cpu, params) = decoder(&Device::Cpu);
    let want = step(&cpu, &params);
    let (mut on_gpu, params) = decoder(&gpu);
    let cases = [
        (Exec::Portable, 1e-4),
        (Exec::Fused, 1e-4),
        (Exec::Autocast(Half::F16), 2e-2),
        (Exec::Autocast(Half::Bf16), 6e-2),
    ];
    for (exec, most) in cases {
        on_gpu.set_exec(exec);
        let got = step(&on_gpu, &params);
        assert!(apart(&got.0, &want.0) < most, "{exec:?}: {}", apart(&got.0, &want.0));
        for (i, (got, want)) in got.1.iter().zip(&want.1).enumerate() {
            let name = &params.params[i].name;
            assert!(apart(got, want) < most, "{exec:?} {name}: {}", apart(got, want));
        }
        // The same bits once more.
        assert_eq!(got, step(&on_gpu, &params), "{exec:?}");
    }
}

/// A stream that is being captured refuses whatever would wait for the GPU or fetch from it: a step
/// that can be captured goes from its inputs to the gradients without a round trip. (Uploads of the
/// inputs are remembered from the step before.)
#[test]
fn a_step_never_waits_for_the_gpu() {
    let Some(gpu) = gpu() else { return };
    let Device::Cuda(cuda) = &gpu else { return };
    let (mut decoder, params) = decoder(&gpu);
    let _remembered = cuda.enable_cuda_graph_htod_cache();
    let batch = batch();
    for exec in [Exec::Fused, Exec::Autocast(Half::Bf16)] {
        decoder.set_exec(exec);
        let run = || -> candle_core::Result<(head::Pending, GradSet)> {
            let mut grads = GradSet::new(params.params.len());
            let targets = batch.targets();
            let positions = targets.iter().map(|t| t.position).collect();
            let tokens: Vec<u32> = targets.iter().map(|t| t.token).collect();
            let kept = decoder.forward_at(&params, &batch, positions, Some(3))?;
            let derivatives = vec![-0.01; tokens.len()];
            let (scores, made) = head::score_and_backward(
                exec,
                &kept.normed,
                decoder.head(),
                &tokens,
                &derivatives,
                true,
            )?;
            decoder.backward_at(&params, &batch, kept, &made.hidden, &mut grads)?;
            Ok((scores, grads))
        };
        drop(run().unwrap());
        cuda.cuda_stream().synchronize().unwrap();
        let stream = cuda.cuda_stream();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let made = run();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags);
        let (scores, grads) = made.unwrap();
        assert!(graph.unwrap().is_some());
        // Never launched: their memory exists in the graph alone.
        std::mem::forget((scores, grads));
    }
}
