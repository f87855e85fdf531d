//! `--deepspeed FILE`: DeepSpeed's configuration as a further source of settings. Every field is
//! honoured, or refused by name; what changes nothing on CPUs is said.
//!
//! Names, defaults and formulas are DeepSpeed's (0.19); "auto" is filled in as transformers'
//! `HfTrainerDeepSpeedConfig` does: from the flags.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::values::Values;
use super::{ConfigError, file};

/// Shape of a schedule of DeepSpeed's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WarmupKind {
    /// Warm-up, then constant.
    WarmupLR,
    /// Warm-up, then linearly to zero.
    WarmupDecayLR,
    /// Warm-up, then half a cosine to a share.
    WarmupCosineLR,
}

/// A schedule of DeepSpeed's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmupSchedule {
    /// Shape.
    pub kind: WarmupKind,
    /// Rate at the start; of [`WarmupKind::WarmupCosineLR`] a share of the peak.
    pub min: f64,
    /// Peak; `None`: the optimiser's rate.
    pub max: Option<f64>,
    /// Updates of warm-up; `None`: the flags'.
    pub warmup_steps: Option<u64>,
    /// All updates; `None`: the run's.
    pub total_steps: Option<u64>,
    /// Whether the warm-up is a straight line, and no logarithm.
    pub linear: bool,
    /// Where the cosine ends, as a share of the peak.
    pub cos_min_ratio: f64,
}

/// Scaling of the loss, made for float16's narrow range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScaling {
    /// A scale that stays; `None`: one that follows the overflows.
    pub fixed: Option<f64>,
    /// Its first value is 2 to this.
    pub initial_scale_power: i32,
    /// Updates without overflow after which it doubles.
    pub window: u64,
    /// Overflows after which it halves.
    pub hysteresis: u64,
    /// Whether an update without overflow forgives the ones before.
    pub consecutive_hysteresis: bool,
    /// Least value.
    pub min: f64,
}

/// What is left of the file when its settings have become those of flags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeepSpeed {
    /// Its schedule, if it has one.
    pub schedule: Option<WarmupSchedule>,
    /// Scaling of the loss, under `fp16`.
    pub loss_scaling: Option<LossScaling>,
    /// Rows of an update over all ranks, to be checked.
    pub train_batch_size: Option<usize>,
    /// Gradients that travel together; `None`: the square of the hidden size.
    pub reduce_bucket_size: Option<usize>,
    /// Parameters that travel together.
    pub allgather_bucket_size: usize,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// DeepSpeed's default of both buckets, values.
const BUCKET: usize = 500_000_000;

/// A field's value.
enum Field<T> {
    Absent,
    Auto,
    Is(T),
}

/// An object of the file, from which fields are taken until none is left.
struct Section {
    /// `zero_optimization.` …
    prefix: String,
    map: Map<String, Value>,
}

/// All that was found so far.
struct Reader<'a> {
    file: &'a str,
    faults: Vec<String>,
    /// Fields that change nothing here.
    idle: Vec<String>,
}

impl Reader<'_> {
    fn fault(&mut self, section: &Section, key: &str, text: &str) {
        self.faults.push(format!("{}: `{}{key}` {text}", self.file, section.prefix));
    }

    /// The object under `key`; an empty one when it is absent.
    fn section(&mut self, from: &mut Section, key: &str) -> Option<Section> {
        let map = match from.map.remove(key) {
            None | Some(Value::Null) => return None,
            Some(Value::Object(map)) => map,
            Some(_) => {
                self.fault(from, key, "must be an object");
                return None;
            }
        };
        Some(Section { prefix: format!("{}{key}.", from.prefix), map })
    }

    fn field<T>(
        &mut self,
        from: &mut Section,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Field<T> {
        match from.map.remove(key) {
            None | Some(Value::Null) => Field::Absent,
            Some(Value::String(text)) if text == "auto" => Field::Auto,
            Some(value) => match read(&value) {
                Some(value) => Field::Is(value),
                None => {
                    let value = crate::error::excerpt(&value.to_string());
                    self.fault(from, key, &format!("is {value}, expected {expected}"));
                    Field::Absent
                }
            },
        }
    }

    fn number(&mut self, from: &mut Section, key: &str) -> Field<f64> {
        self.field(from, key, "a number or \"auto\"", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    fn count(&mut self, from: &mut Section, key: &str) -> Field<u64> {
        // Large ones are often written as 2e8.
        let whole = |x: f64| ((0.0..=1e18).contains(&x) && x.fract() == 0.0).then_some(x as u64);
        self.field(from, key, "a whole number or \"auto\"", |v| {
            v.as_u64().or_else(|| v.as_f64().and_then(whole))
        })
    }

    /// A field that must not be "auto".
    fn plain<T>(&mut self, from: &Section, key: &str, field: Field<T>, default: T) -> T {
        match field {
            Field::Is(value) => value,
            Field::Absent => default,
            Field::Auto => {
                self.fault(from, key, "is \"auto\", which nothing fills in; give a value");
                default
            }
        }
    }

    fn flag(&mut self, from: &mut Section, key: &str, default: bool) -> bool {
        let field = self.field(from, key, "true or false", Value::as_bool);
        self.plain(from, key, field, default)
    }

    /// A switch that can only stay off, with what to do instead.
    fn off(&mut self, from: &mut Section, key: &str, remedy: &str) {
        if self.flag(from, key, false) {
            self.fault(from, key, &format!("is true, and is not done here; {remedy}"));
        }
    }

    /// A field that changes nothing here, whatever its value.
    fn idle(&mut self, from: &mut Section, key: &str) {
        if from.map.remove(key).is_some() {
            self.idle.push(format!("{}{key}", from.prefix));
        }
    }

    /// What nobody took is not done here.
    fn finish(&mut self, from: Section) {
        for key in from.map.keys() {
            let key = crate::error::excerpt(key);
            self.fault(&from, &key, "is not done here; remove it");
        }
    }

    /// A value that a flag gives too: the file's, unless it is "auto" or the flag's differs.
    fn as_flag<T: std::fmt::Display>(
        &mut self,
        v: &mut Values,
        from: &Section,
        key: &str,
        field: &Field<T>,
        name: &str,
    ) {
        if let Field::Is(value) = field {
            let origin = format!("{}: {}{key}", self.file, from.prefix);
            if let Some(theirs) = v.agree(name, &value.to_string(), &origin) {
                let text = format!(
                    "is {value}, but {theirs}; make them the same, or write \"auto\" to take the flag's"
                );
                self.fault(from, key, &text);
            }
        }
    }
}

impl DeepSpeed {
    /// Reads `path` and gives its settings to `v`. Faults go into the values, all of them.
    pub fn read(path: &Path, v: &mut Values) -> Self {
        let name = path.display().to_string();
        let map = match file::parse(path) {
            Ok(map) => map,
            Err(ConfigError::Faults(faults)) => {
                v.faults.extend(faults);
                return Self::default();
            }
        };
        let mut reader = Reader { file: &name, faults: Vec::new(), idle: Vec::new() };
        let mut found = reader.all(Section { prefix: String::new(), map }, v);
        if !reader.idle.is_empty() {
            found
                .notices
                .push(format!("{name}: {} change nothing on CPUs", reader.idle.join(", ")));
        }
        v.faults.append(&mut reader.faults);
        found
    }
}

impl Reader<'_> {
    fn all(&mut self, mut top: Section, v: &mut Values) -> DeepSpeed {
        let mut found = DeepSpeed { allgather_bucket_size: BUCKET, ..DeepSpeed::default() };
        for (key, name) in [
            ("train_micro_batch_size_per_gpu", "per_device_train_batch_size"),
            ("gradient_accumulation_steps", "gradient_accumulation_steps"),
        ] {
            let field = self.count(&mut top, key);
            self.as_flag(v, &top, key, &field, name);
        }
        let clipping = self.number(&mut top, "gradient_clipping");
        self.as_flag(v, &top, "gradient_clipping", &clipping, "max_grad_norm");
        if let Field::Is(rows) = self.count(&mut top, "train_batch_size") {
            found.train_batch_size = Some(rows as usize);
        }
        for key in
            ["steps_per_print", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer"]
        {
            self.idle(&mut top, key);
        }
        self.off(&mut top, "wall_clock_breakdown", "remove it");
        self.off(&mut top, "dump_state", "the run's settings are in trainer_config.json");
        self.off(&mut top, "prescale_gradients", "gradients are float32 and need no scaling");
        let predivide = self.number(&mut top, "gradient_predivide_factor");
        if self.plain(&top, "gradient_predivide_factor", predivide, 1.0) != 1.0 {
            self.fault(&top, "gradient_predivide_factor", "must be 1: gradients are float32");
        }
        let fp32 = |v: &Value| v.as_str().filter(|t| *t == "fp32").map(str::to_string);
        let kind = self.field(&mut top, "communication_data_type", "\"fp32\"", fp32);
        self.plain(&top, "communication_data_type", kind, String::new());
        if let Some(mut types) = self.section(&mut top, "data_types") {
            let kind = self.field(&mut types, "grad_accum_dtype", "\"fp32\"", fp32);
            self.plain(&types, "grad_accum_dtype", kind, String::new());
            self.finish(types);
        }
        // Whole features that are off by default.
        for key in ["amp", "flops_profiler", "tensorboard", "wandb", "csv_monitor", "comms_logger"]
        {
            if let Some(mut section) = self.section(&mut top, key)
                && self.flag(&mut section, "enabled", false)
            {
                self.fault(&section, "enabled", "is true, and is not done here; remove it");
            }
        }
        if top.map.remove("activation_checkpointing").is_some() {
            let text = "is not done here; use `--gradient_checkpointing True`";
            self.fault(&top, "activation_checkpointing", text);
        }
        self.optimizer(&mut top, v);
        found.schedule = self.scheduler(&mut top, v);
        let bf16 = self.bf16(&mut top, v);
        found.loss_scaling = self.fp16(&mut top, bf16, &mut found.notices);
        self.zero(&mut top, v, &mut found);
        self.finish(top);
        found
    }

    fn optimizer(&mut self, top: &mut Section, v: &mut Values) {
        let Some(mut section) = self.section(top, "optimizer") else { return };
        let text = |v: &Value| v.as_str().map(str::to_string);
        let kind = self.field(&mut section, "type", "a name", text);
        let kind = self.plain(&section, "type", kind, String::new());
        if !["adam", "adamw"].contains(&kind.to_ascii_lowercase().as_str()) {
            let kind = crate::error::excerpt(&kind);
            self.fault(
                &section,
                "type",
                &format!("is `{kind}`; only Adam and AdamW are done here"),
            );
        }
        let absent = || Section { prefix: "optimizer.params.".into(), map: Map::new() };
        let mut params = self.section(&mut section, "params").unwrap_or_else(absent);
        // Absent ones have DeepSpeed's own defaults, not the flags'.
        for (key, name, default) in [
            ("lr", "learning_rate", 1e-3),
            ("eps", "adam_epsilon", 1e-8),
            ("weight_decay", "weight_decay", 0.0),
        ] {
            let field = match self.number(&mut params, key) {
                Field::Absent => Field::Is(default),
                other => other,
            };
            self.as_flag(v, &params, key, &field, name);
        }
        let pair = |v: &Value| match v.as_array().map(Vec::as_slice) {
            Some([a, b]) => Some((a.as_f64()?, b.as_f64()?)),
            _ => None,
        };
        let betas = self.field(&mut params, "betas", "two numbers or \"auto\"", pair);
        let (beta1, beta2) = match betas {
            Field::Absent => (Field::Is(0.9), Field::Is(0.999)),
            Field::Auto => (Field::Auto, Field::Auto),
            Field::Is((a, b)) => (Field::Is(a), Field::Is(b)),
        };
        self.as_flag(v, &params, "betas", &beta1, "adam_beta1");
        self.as_flag(v, &params, "betas", &beta2, "adam_beta2");
        for key in ["torch_adam", "fused"] {
            self.idle(&mut params, key);
        }
        self.off(&mut params, "amsgrad", "remove it");
        for key in ["adam_w_mode", "bias_correction"] {
            if !self.flag(&mut params, key, true) {
                self.fault(
                    &params,
                    key,
                    "is false; only AdamW with corrected moments is done here",
                );
            }
        }
        self.finish(params);
        self.finish(section);
    }

    fn scheduler(&mut self, top: &mut Section, v: &mut Values) -> Option<WarmupSchedule> {
        let mut section = self.section(top, "scheduler")?;
        let text = |v: &Value| v.as_str().map(str::to_string);
        let name = self.field(&mut section, "type", "a name", text);
        let name = self.plain(&section, "type", name, String::new());
        let kind = match name.as_str() {
            "WarmupLR" => WarmupKind::WarmupLR,
            "WarmupDecayLR" => WarmupKind::WarmupDecayLR,
            "WarmupCosineLR" => WarmupKind::WarmupCosineLR,
            other => {
                let other = crate::error::excerpt(other);
                let text = format!(
                    "is `{other}`; WarmupLR, WarmupDecayLR and WarmupCosineLR are done here, and \
                     without a scheduler block those of `--lr_scheduler_type`"
                );
                self.fault(&section, "type", &text);
                return None;
            }
        };
        if v.is_given("lr_scheduler_type") {
            let text = format!("is {name}, but `--lr_scheduler_type` is given too; leave one out");
            self.fault(&section, "type", &text);
        }
        let absent = || Section { prefix: "scheduler.params.".into(), map: Map::new() };
        let mut params = self.section(&mut section, "params").unwrap_or_else(absent);
        let warmup = self.count(&mut params, "warmup_num_steps");
        self.as_flag(v, &params, "warmup_num_steps", &warmup, "warmup_steps");
        let warmup_steps = match warmup {
            Field::Absent => Some(1000),
            Field::Auto => None,
            Field::Is(0) => {
                self.fault(&params, "warmup_num_steps", "is 0; it must be 1 at least");
                None
            }
            Field::Is(steps) => Some(steps),
        };
        let names = |v: &Value| v.as_str().map(str::to_string);
        let form = self.field(&mut params, "warmup_type", "\"log\" or \"linear\"", names);
        let form = self.plain(&params, "warmup_type", form, "log".into());
        if !["log", "linear"].contains(&form.as_str()) {
            self.fault(&params, "warmup_type", "must be \"log\" or \"linear\"");
        }
        let mut schedule = WarmupSchedule {
            kind,
            min: 0.0,
            max: None,
            warmup_steps,
            total_steps: None,
            linear: form == "linear",
            cos_min_ratio: 1e-4,
        };
        match kind {
            WarmupKind::WarmupCosineLR => {
                let min = self.number(&mut params, "warmup_min_ratio");
                schedule.min = self.plain(&params, "warmup_min_ratio", min, 0.0);
                let end = self.number(&mut params, "cos_min_ratio");
                schedule.cos_min_ratio = self.plain(&params, "cos_min_ratio", end, 1e-4);
            }
            _ => {
                if let Field::Is(min) = self.number(&mut params, "warmup_min_lr") {
                    schedule.min = min;
                }
                let max = self.number(&mut params, "warmup_max_lr");
                self.as_flag(v, &params, "warmup_max_lr", &max, "learning_rate");
                schedule.max = match max {
                    Field::Is(max) => Some(max),
                    Field::Absent if kind == WarmupKind::WarmupDecayLR => Some(1e-3),
                    _ => None,
                };
            }
        }
        if kind != WarmupKind::WarmupLR {
            match self.count(&mut params, "total_num_steps") {
                Field::Is(steps) => schedule.total_steps = Some(steps),
                Field::Auto => {}
                Field::Absent => {
                    self.fault(
                        &params,
                        "total_num_steps",
                        "is missing; write \"auto\" for the run's",
                    );
                }
            }
        }
        self.finish(params);
        self.finish(section);
        Some(schedule)
    }

    /// Whether bfloat16 is on.
    fn bf16(&mut self, top: &mut Section, v: &mut Values) -> bool {
        let key = if top.map.contains_key("bf16") { "bf16" } else { "bfloat16" };
        let Some(mut section) = self.section(top, key) else { return false };
        let enabled =
            self.field(&mut section, "enabled", "true or false or \"auto\"", Value::as_bool);
        let on = match enabled {
            Field::Is(on) => on,
            Field::Absent | Field::Auto => false,
        };
        if on {
            self.as_flag(v, &section, "enabled", &Field::Is("bfloat16"), "torch_dtype");
        }
        // Gradients are float32, and an update that is not finite is never made.
        for key in ["check_grad_overflow", "immediate_grad_update"] {
            self.idle(&mut section, key);
        }
        self.finish(section);
        on
    }

    fn fp16(
        &mut self,
        top: &mut Section,
        bf16: bool,
        notices: &mut Vec<String>,
    ) -> Option<LossScaling> {
        let mut section = self.section(top, "fp16")?;
        let enabled =
            self.field(&mut section, "enabled", "true or false or \"auto\"", Value::as_bool);
        // There is no flag for it that "auto" could follow.
        let on = matches!(enabled, Field::Is(true));
        if on && bf16 {
            self.fault(&section, "enabled", "and `bf16.enabled` are both true; choose one");
        }
        self.off(&mut section, "auto_cast", "inputs are token ids");
        let mut whole = |reader: &mut Self, key: &str, default: u64| {
            let field = reader.count(&mut section, key);
            reader.plain(&section, key, field, default)
        };
        let power = whole(self, "initial_scale_power", 16);
        let window = whole(self, "loss_scale_window", 1000).max(1);
        let hysteresis = whole(self, "hysteresis", 2).max(1);
        let scale = self.number(&mut section, "loss_scale");
        let scale = self.plain(&section, "loss_scale", scale, 0.0);
        let min = self.number(&mut section, "min_loss_scale");
        let min = self.plain(&section, "min_loss_scale", min, 1.0);
        let consecutive_hysteresis = self.flag(&mut section, "consecutive_hysteresis", false);
        if power > 100 {
            self.fault(&section, "initial_scale_power", "is beyond 100; 16 is usual");
        }
        if scale < 0.0 || min <= 0.0 {
            self.fault(&section, "loss_scale", "and min_loss_scale can't be negative");
        }
        self.finish(section);
        if !on {
            return None;
        }
        notices.push(
            "fp16: CPUs multiply in float32 here; the loss is scaled as configured, which changes no \
             update that does not overflow"
                .into(),
        );
        Some(LossScaling {
            fixed: (scale > 0.0).then_some(scale),
            initial_scale_power: power.min(100) as i32,
            window,
            hysteresis,
            consecutive_hysteresis,
            min,
        })
    }

    fn zero(&mut self, top: &mut Section, v: &mut Values, found: &mut DeepSpeed) {
        let Some(mut section) = self.section(top, "zero_optimization") else { return };
        let stage = self.count(&mut section, "stage");
        let stage = self.plain(&section, "stage", stage, 0);
        if stage > 2 {
            let text = format!(
                "is {stage}; stages 0, 1 and 2 are done here: use 2, with load_in_4bit or gradient_checkpointing where memory is short"
            );
            self.fault(&section, "stage", &text);
        } else {
            self.as_flag(v, &section, "stage", &Field::Is(stage), "zero_stage");
        }
        match self.count(&mut section, "reduce_bucket_size") {
            Field::Absent => found.reduce_bucket_size = Some(BUCKET),
            Field::Auto => found.reduce_bucket_size = None,
            Field::Is(size) => found.reduce_bucket_size = Some(size.max(1) as usize),
        }
        let size = self.count(&mut section, "allgather_bucket_size");
        let size = self.plain(&section, "allgather_bucket_size", size, BUCKET as u64);
        found.allgather_bucket_size = size.max(1) as usize;
        if !self.flag(&mut section, "allgather_partitions", true) {
            self.fault(&section, "allgather_partitions", "is false; only true is done here");
        }
        for key in [
            "overlap_comm",
            "contiguous_gradients",
            "reduce_scatter",
            "round_robin_gradients",
            "ignore_unused_parameters",
            "elastic_checkpoint",
            "load_from_fp32_weights",
            "sub_group_size",
            "stage3_prefetch_bucket_size",
            "stage3_param_persistence_threshold",
            "stage3_model_persistence_threshold",
            "stage3_max_live_parameters",
            "stage3_max_reuse_distance",
            "stage3_gather_16bit_weights_on_model_save",
            "stage3_module_granularity_threshold",
            "stage3_use_all_reduce_for_fetch_params",
        ] {
            self.idle(&mut section, key);
        }
        for key in [
            "zero_quantized_weights",
            "zero_quantized_gradients",
            "zero_quantized_nontrainable_weights",
        ] {
            self.off(&mut section, key, "use `--load_in_8bit True` for frozen weights");
        }
        for (key, off) in [("zero_hpz_partition_size", 1.0), ("mics_shard_size", -1.0)] {
            let field = self.number(&mut section, key);
            if self.plain(&section, key, field, off) != off {
                self.fault(&section, key, &format!("must be {off}: shards span all ranks"));
            }
        }
        for key in ["offload_optimizer", "offload_param"] {
            self.offload(&mut section, key, stage);
        }
        self.finish(section);
    }

    fn offload(&mut self, zero: &mut Section, key: &str, stage: u64) {
        let Some(mut section) = self.section(zero, key) else { return };
        let text = |v: &Value| v.as_str().map(str::to_string);
        let device = self.field(&mut section, "device", "\"none\" or \"cpu\"", text);
        let device = self.plain(&section, "device", device, "none".into());
        match device.as_str() {
            "none" => {}
            // Everything is there already.
            "cpu" if key == "offload_optimizer" || stage == 3 => {
                self.idle.push(format!("{}device", section.prefix));
            }
            "cpu" => {
                self.fault(&section, "device", "is \"cpu\", which DeepSpeed takes in stage 3 only")
            }
            "nvme" => {
                self.fault(&section, "device", "is \"nvme\", which is not done here; use \"cpu\"")
            }
            other => {
                let other = crate::error::excerpt(other);
                self.fault(&section, "device", &format!("is `{other}`, expected none or cpu"));
            }
        }
        for key in ["pin_memory", "buffer_count", "buffer_size", "max_in_cpu", "fast_init"] {
            self.idle(&mut section, key);
        }
        for key in ["pipeline_read", "pipeline_write"] {
            self.off(&mut section, key, "it belongs to nvme");
        }
        let ratio = self.number(&mut section, "ratio");
        if self.plain(&section, "ratio", ratio, 1.0) != 1.0 {
            self.fault(&section, "ratio", "must be 1");
        }
        self.finish(section);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
