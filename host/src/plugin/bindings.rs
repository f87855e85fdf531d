//! What wasmtime's `bindgen!` makes of the contract: one module per world, shared interfaces once.
#![allow(missing_docs)]

pub mod formatter {
    wasmtime::component::bindgen!({
        path: "../plugin-sdk/wit",
        world: "formatter",
        imports: { default: trappable },
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

pub mod template {
    wasmtime::component::bindgen!({
        path: "../plugin-sdk/wit",
        world: "template",
        imports: { default: trappable },
        with: {
            "trainer:plugin/types": super::formatter::trainer::plugin::types,
            "trainer:plugin/chat": super::formatter::trainer::plugin::chat,
            "trainer:plugin/host": super::formatter::trainer::plugin::host,
        },
    });
}

pub mod reward {
    wasmtime::component::bindgen!({
        path: "../plugin-sdk/wit",
        world: "reward",
        imports: { default: trappable },
        ownership: Borrowing { duplicate_if_necessary: false },
        with: {
            "trainer:plugin/types": super::formatter::trainer::plugin::types,
            "trainer:plugin/host": super::formatter::trainer::plugin::host,
        },
    });
}

pub use formatter::exports::trainer::plugin::formatting;
pub use formatter::trainer::plugin::{chat, host, types};
pub use reward::exports::trainer::plugin::rewards;
pub use template::exports::trainer::plugin::templating;
