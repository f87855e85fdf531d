//! Rows in, examples out.

use serde::de::DeserializeOwned;

use crate::{About, Error, Outcome, Reads, Row, Rows};

/// Turns rows of a dataset into training examples. Export it with
/// [`export_formatter!`](crate::export_formatter).
pub trait Formatter: Sized + 'static {
    /// What the user may set; `()`-like types with `#[serde(deny_unknown_fields)]` take nothing.
    type Options: DeserializeOwned;

    /// Name, version, schema of the options.
    const ABOUT: About;

    /// Makes the formatter once per instance.
    ///
    /// # Errors
    /// Why the options can't be used, naming the option.
    fn new(options: Self::Options, seed: u64) -> Result<Self, String>;

    /// What is read of a row under these options.
    fn reads(&self) -> Reads;

    /// The outcome of one row. Never panics: a broken row is a
    /// [`reject`](crate::Outcome::reject).
    fn format_row(&self, row: &Row<'_>) -> Outcome;

    /// All rows of a call, for formatters that gain from seeing several at once.
    ///
    /// # Errors
    /// When the call as a whole can't be answered.
    fn format(&self, rows: &Rows<'_>) -> Result<Vec<Outcome>, Error> {
        Ok(rows.iter().map(|row| self.format_row(&row)).collect())
    }
}

/// Makes a [`Formatter`] the component's formatter. Once per crate.
#[macro_export]
macro_rules! export_formatter {
    ($plugin:ty) => {
        const _: () = {
            use world::exports::trainer::plugin::formatting;
            use $crate::bindings::formatter as world;

            ::std::thread_local! {
                static STATE: $crate::glue::State<$plugin> = $crate::glue::State::new();
            }
            struct Component;

            impl formatting::Guest for Component {
                fn describe() -> formatting::Info {
                    let about = <$plugin as $crate::Formatter>::ABOUT;
                    $crate::glue::describe(about, || {
                        $crate::glue::options("{}")
                            .and_then(|o| <$plugin as $crate::Formatter>::new(o, 0))
                            .map(|p| $crate::Formatter::reads(&p))
                    })
                }

                fn configure(options: String, seed: u64) -> Result<$crate::Reads, $crate::Error> {
                    STATE.with(|state| {
                        state.configure(
                            || {
                                let options = $crate::glue::options(&options)?;
                                <$plugin as $crate::Formatter>::new(options, seed)
                            },
                            $crate::Formatter::reads,
                        )
                    })
                }

                fn format(rows: $crate::Batch) -> Result<Vec<$crate::Outcome>, $crate::Error> {
                    STATE.with(|state| {
                        state.with(|p| $crate::Formatter::format(p, &$crate::Rows::new(&rows)))
                    })
                }
            }

    world::export_formatter_world!(Component with_types_in world);
        };
    };
}
