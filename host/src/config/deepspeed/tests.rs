use super::*;
use crate::config::RunConfig;
use crate::config::stage::Stage;
use crate::config::table::SFT;
use crate::config::values::Given;

/// A run's configuration under a DeepSpeed file with this text.
fn resolve(text: &str, flags: &[(&str, &str)]) -> Result<RunConfig, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ds.json");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    let base = [
        ("model_name_or_path", "m"),
        ("output_dir", "o"),
        ("train_file_dir", "d"),
        ("deepspeed", path.as_str()),
    ];
    let given = |(name, text): &(&str, &str)| {
        (name.to_string(), Given { text: text.to_string(), origin: format!("--{name}") })
    };
    let mut values = Values::new(SFT);
    values.take(base.iter().chain(flags).map(given).collect());
    RunConfig::resolve(Stage::Sft, values, true).map_err(|e| e.to_string())
}

fn shared(name: &str) -> Option<String> {
    let path = crate::test_data(&format!("accelerate/tests/deepspeed/{name}"))?;
    Some(std::fs::read_to_string(path).unwrap())
}

#[test]
fn published_configurations_of_stage_2_are_honoured() {
    let Some(text) = shared("ds_config_zero2.json") else { return };
    let flags = [("learning_rate", "1e-4"), ("warmup_steps", "7"), ("weight_decay", "0.02")];
    let args = resolve(&text, &flags).unwrap().training;
    assert_eq!((args.zero_stage, args.learning_rate, args.weight_decay), (2, 1e-4, 0.02));
    let deepspeed = args.deepspeed.unwrap();
    assert_eq!(deepspeed.reduce_bucket_size, None);
    assert_eq!(deepspeed.allgather_bucket_size, 200_000_000);
    assert_eq!(deepspeed.loss_scaling, None);
    let schedule = deepspeed.schedule.unwrap();
    assert_eq!((schedule.kind, schedule.linear), (WarmupKind::WarmupLR, false));
    assert_eq!((schedule.max, schedule.warmup_steps), (None, None));
    assert!(deepspeed.notices[0].contains("zero_optimization.overlap_comm"));
    let text = shared("ds_config_zero2_model_only.json").unwrap();
    let args = resolve(&text, &[("lr_scheduler_type", "cosine")]).unwrap().training;
    assert_eq!(args.deepspeed.unwrap().schedule, None);
}

#[test]
fn stage_3_is_refused_by_name() {
    for name in ["ds_config_zero3.json", "ds_config_zero3_model_only.json"] {
        let Some(text) = shared(name) else { return };
        let error = resolve(&text, &[]).unwrap_err();
        assert!(error.contains("`zero_optimization.stage` is 3"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn the_first_tutorials_file_scales_its_loss() {
    let text = r#"{
        "fp16": {"enabled": true, "loss_scale": 0, "loss_scale_window": 1000,
                 "initial_scale_power": 16, "hysteresis": 2, "min_loss_scale": 1},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto",
                      "torch_adam": true, "adam_w_mode": true}},
        "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": "auto",
                      "warmup_max_lr": "auto", "warmup_num_steps": "auto",
                      "total_num_steps": "auto"}},
        "zero_optimization": {"stage": 2, "allgather_partitions": true,
            "allgather_bucket_size": 2e8, "reduce_scatter": true, "reduce_bucket_size": "auto",
            "overlap_comm": true, "contiguous_gradients": true},
        "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
        "steps_per_print": 1000, "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto", "wall_clock_breakdown": false}"#;
    let deepspeed = resolve(text, &[]).unwrap().training.deepspeed.unwrap();
    assert_eq!(deepspeed.loss_scaling.unwrap().initial_scale_power, 16);
    assert_eq!(deepspeed.schedule.unwrap().total_steps, None);
    assert!(deepspeed.notices.iter().any(|n| n.contains("float32")));
}

#[test]
fn explicit_values_hold_and_absent_ones_are_deepspeeds() {
    let text = r#"{"train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5, "train_batch_size": 12,
        "optimizer": {"type": "Adam", "params": {"lr": 3e-4, "betas": [0.8, 0.99]}},
        "zero_optimization": {"stage": 1, "reduce_bucket_size": 1e6}}"#;
    let args = resolve(text, &[("max_grad_norm", "0.50")]).unwrap().training;
    assert_eq!((args.per_device_train_batch_size, args.gradient_accumulation_steps), (3, 2));
    assert_eq!((args.max_grad_norm, args.learning_rate), (0.5, 3e-4));
    assert_eq!((args.adam_beta1, args.adam_beta2, args.weight_decay), (0.8, 0.99, 0.0));
    assert_eq!(args.zero_stage, 1);
    let deepspeed = args.deepspeed.unwrap();
    assert_eq!(
        (deepspeed.train_batch_size, deepspeed.reduce_bucket_size),
        (Some(12), Some(1_000_000))
    );
}

#[test]
fn conflicts_and_what_is_not_done_are_reported_together() {
    let text = r#"{"train_micro_batch_size_per_gpu": 3, "gradient_clipping": 0.5,
        "optimizer": {"type": "Lamb", "params": {"lr": 1e-3, "adam_w_mode": false, "zz": 1}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 0, "warmup_type": "x"}},
        "fp16": {"enabled": true}, "bf16": {"enabled": true},
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"},
            "offload_param": {"device": "cpu"}, "zero_quantized_weights": true,
            "stage3_magic": 1, "reduce_bucket_size": "many", "allgather_bucket_size": "auto"},
        "prescale_gradients": true, "autotuning": {"enabled": true},
        "communication_data_type": "fp16"}"#;
    let flags = [
        ("per_device_train_batch_size", "4"),
        ("max_grad_norm", "1.0"),
        ("learning_rate", "2e-5"),
        ("lr_scheduler_type", "cosine"),
    ];
    let error = resolve(text, &flags).unwrap_err();
    for part in [
        "`train_micro_batch_size_per_gpu` is 3, but `--per_device_train_batch_size` is 4",
        "`gradient_clipping` is 0.5, but `--max_grad_norm` is 1.0",
        "`optimizer.type` is `Lamb`",
        "`optimizer.params.lr` is 0.001, but `--learning_rate` is 2e-5",
        "`optimizer.params.adam_w_mode` is false",
        "`optimizer.params.zz` is not done here",
        "`scheduler.type` is WarmupLR, but `--lr_scheduler_type`",
        "`scheduler.params.warmup_num_steps` is 0",
        "`scheduler.params.warmup_type`",
        "`fp16.enabled` and `bf16.enabled`",
        "`zero_optimization.offload_optimizer.device` is \"nvme\"",
        "`zero_optimization.offload_param.device` is \"cpu\"",
        "`zero_optimization.zero_quantized_weights` is true",
        "`zero_optimization.stage3_magic` is not done here",
        "`zero_optimization.reduce_bucket_size` is \"many\"",
        "`zero_optimization.allgather_bucket_size` is \"auto\"",
        "`prescale_gradients` is true",
        "`autotuning` is not done here",
        "`communication_data_type` is \"fp16\"",
    ] {
        assert!(error.contains(part), "no {part} in:\n{error}");
    }
    assert!(resolve("{\"a\": 1, \"a\"", &[]).unwrap_err().contains("ds.json"));
}
