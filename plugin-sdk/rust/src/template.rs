//! Conversations in, text segments out.

use serde::de::DeserializeOwned;

use crate::{About, Conversation, RenderOptions, Segment};

/// Renders conversations as text. Export it with [`export_template!`](crate::export_template).
pub trait Template: Sized + 'static {
    /// What the user may set.
    type Options: DeserializeOwned;

    /// Name, version, schema of the options.
    const ABOUT: About;

    /// Makes the template once per instance.
    ///
    /// # Errors
    /// Why the options can't be used, naming the option.
    fn new(options: Self::Options, seed: u64) -> Result<Self, String>;

    /// The segments of one conversation.
    ///
    /// # Errors
    /// Why this conversation has no rendering in this template.
    fn render_one(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
    ) -> Result<Vec<Segment>, String>;

    /// Texts at which generation stops.
    fn stop_strings(&self, options: &RenderOptions) -> Vec<String>;
}

/// Makes a [`Template`] the component's template. Once per crate.
#[macro_export]
macro_rules! export_template {
    ($plugin:ty) => {
        const _: () = {
            use world::exports::trainer::plugin::templating;
            use $crate::bindings::template as world;

            ::std::thread_local! {
                static STATE: $crate::glue::State<$plugin> = $crate::glue::State::new();
            }
            struct Component;

            impl templating::Guest for Component {
                fn describe() -> templating::Info {
                    let about = <$plugin as $crate::Template>::ABOUT;
                    $crate::glue::describe(about, || Ok($crate::Reads::columns([])))
                }

                fn configure(options: String, seed: u64) -> Result<$crate::Reads, $crate::Error> {
                    STATE.with(|state| {
                        state.configure(
                            || {
                                let options = $crate::glue::options(&options)?;
                                <$plugin as $crate::Template>::new(options, seed)
                            },
                            |_| $crate::Reads::columns([]),
                        )
                    })
                }

                fn render(
                    conversations: Vec<$crate::Conversation>,
                    options: $crate::RenderOptions,
                ) -> Result<Vec<Result<Vec<$crate::Segment>, String>>, $crate::Error> {
                    STATE.with(|state| {
                        state.with(|p| {
                            Ok(conversations
                                .iter()
                                .map(|c| $crate::Template::render_one(p, c, &options))
                                .collect())
                        })
                    })
                }

                fn stop_strings(
                    options: $crate::RenderOptions,
                ) -> Result<Vec<String>, $crate::Error> {
                    STATE.with(|state| {
                        state.with(|p| Ok($crate::Template::stop_strings(p, &options)))
                    })
                }
            }

    world::export_template_world!(Component with_types_in world);
        };
    };
}
