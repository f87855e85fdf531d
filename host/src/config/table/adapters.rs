//! Rows on how an adapter differs from plain LoRA.

use super::{ANY, Kind, POSITIVE, Setting, row};

const GROUP: &str = "LoRA";

/// Scale by the root of the rank.
pub(super) const USE_RSLORA: Setting = row(
    GROUP,
    "use_rslora",
    Kind::Bool,
    "False",
    &[],
    "scale by alpha / sqrt(rank), so that large ranks learn as fast as small ones",
);

/// Magnitudes beside the pairs.
pub(super) const USE_DORA: Setting = row(
    GROUP,
    "use_dora",
    Kind::Bool,
    "False",
    &[],
    "decompose the adapted matrices into magnitude and direction (DoRA): closer to full training, \
     slower",
);

/// How pairs begin.
pub(super) const INIT: Setting = row(
    GROUP,
    "init_lora_weights",
    Kind::Choice(&["True", "pissa"]),
    "True",
    &[],
    "how pairs begin: at nothing (True), or as the largest singular values of the base (pissa); saved \
     so that they fit the base as it is",
);

/// Ranks by layer.
pub(super) const RANK_PATTERN: Setting = row(
    GROUP,
    "rank_pattern",
    Kind::List,
    "",
    &[],
    "another rank for some layers: NAME=RANK, the name being the end of a path or an expression; \
     may be repeated",
);

/// Alphas by layer.
pub(super) const ALPHA_PATTERN: Setting = row(
    GROUP,
    "alpha_pattern",
    Kind::List,
    "",
    &[],
    "another alpha for some layers, as rank_pattern",
);

/// Blocks with pairs.
pub(super) const LAYERS_TO_TRANSFORM: Setting = row(
    GROUP,
    "layers_to_transform",
    Kind::List,
    "",
    &[],
    "numbers of the blocks to adapt (0,1,5-7); all by default",
);

/// Modules trained whole.
pub(super) const MODULES_TO_SAVE: Setting = row(
    GROUP,
    "modules_to_save",
    Kind::List,
    "",
    &["additional_target"],
    "modules trained whole beside the pairs and saved with them: embed_tokens, lm_head, norms",
);

/// Fresh tokens.
pub(super) const ADD_TOKENS: Setting = row(
    GROUP,
    "add_tokens",
    Kind::List,
    "",
    &["new_tokens"],
    "tokens that the tokenizer gets, separated by commas or spaces; the embedding grows where it must, \
     and their rows are trained",
);

/// Fresh tokens that no text shows.
pub(super) const ADD_SPECIAL_TOKENS: Setting = row(
    GROUP,
    "add_special_tokens",
    Kind::List,
    "",
    &["new_special_tokens"],
    "the same, left out of generated text",
);

/// LoRA+.
pub(super) const LORAPLUS: Setting = row(
    GROUP,
    "loraplus_lr_ratio",
    Kind::Float(POSITIVE, ANY),
    "1",
    &[],
    "learning rate of B over that of A (LoRA+ suggests 16)",
);

/// NEFTune.
pub(super) const NEFTUNE: Setting = row(
    GROUP,
    "neftune_noise_alpha",
    Kind::Float(0.0, ANY),
    "0",
    &["neft_alpha"],
    "uniform noise on the embeddings in training, alpha / sqrt(tokens x width) (NEFTune suggests 5)",
);
