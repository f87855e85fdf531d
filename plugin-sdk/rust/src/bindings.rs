//! What `wit-bindgen` makes of the contract: one module per world, the shared interfaces
//! generated once.
#![allow(missing_docs)]

pub mod formatter {
    wit_bindgen::generate!({
        path: "../wit",
        world: "formatter",
        pub_export_macro: true,
        export_macro_name: "export_formatter_world",
        default_bindings_module: "trainer_plugin::bindings::formatter",
        additional_derives: [PartialEq],
    });
}

pub mod template {
    wit_bindgen::generate!({
        path: "../wit",
        world: "template",
        pub_export_macro: true,
        export_macro_name: "export_template_world",
        default_bindings_module: "trainer_plugin::bindings::template",
        additional_derives: [PartialEq],
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::formatter::trainer::plugin::types,
            "trainer:plugin/chat@0.1.0": crate::bindings::formatter::trainer::plugin::chat,
            "trainer:plugin/host@0.1.0": crate::bindings::formatter::trainer::plugin::host,
        },
    });
}

pub mod reward {
    wit_bindgen::generate!({
        path: "../wit",
        world: "reward",
        pub_export_macro: true,
        export_macro_name: "export_reward_world",
        default_bindings_module: "trainer_plugin::bindings::reward",
        additional_derives: [PartialEq],
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::formatter::trainer::plugin::types,
            "trainer:plugin/host@0.1.0": crate::bindings::formatter::trainer::plugin::host,
        },
    });
}
