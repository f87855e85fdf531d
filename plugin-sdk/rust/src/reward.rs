//! Completions in, scores out.

use serde::de::DeserializeOwned;

use crate::{About, Error, Reads, Row, Rows, Score};

/// Scores completions. Export it with [`export_reward!`](crate::export_reward).
///
/// ```
/// use trainer_plugin::{About, Need, Reads, Reward, Row, Score};
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Options {}
///
/// /// 1 where the completion ends with the reference answer.
/// struct Exact;
///
/// impl Reward for Exact {
///     type Options = Options;
///     const ABOUT: About = About::new("exact", "0.1.0", "Compares with the reference.");
///
///     fn new(_options: Options, _seed: u64) -> Result<Self, String> {
///         Ok(Exact)
///     }
///
///     fn reads(&self) -> Reads {
///         Reads::columns([Need::text("completion"), Need::text("reference").optional()])
///     }
///
///     fn score_row(&self, row: &Row<'_>) -> Score {
///         match (row.text("completion"), row.text("reference")) {
///             (Some(c), Some(r)) => Score::new(f64::from(u8::from(c.trim_end().ends_with(r)))),
///             _ => Score::none(),
///         }
///     }
/// }
///
/// trainer_plugin::export_reward!(Exact);
/// ```
pub trait Reward: Sized + 'static {
    /// What the user may set.
    type Options: DeserializeOwned;

    /// Name, version, schema of the options.
    const ABOUT: About;

    /// Makes the reward once per instance.
    ///
    /// # Errors
    /// Why the options can't be used, naming the option.
    fn new(options: Self::Options, seed: u64) -> Result<Self, String>;

    /// What is read of a row under these options.
    fn reads(&self) -> Reads;

    /// The score of one row.
    fn score_row(&self, row: &Row<'_>) -> Score;

    /// All rows of a call, for rewards that gain from seeing several at once.
    ///
    /// # Errors
    /// When the call as a whole can't be answered.
    fn score(&self, rows: &Rows<'_>) -> Result<Vec<Score>, Error> {
        Ok(rows.iter().map(|row| self.score_row(&row)).collect())
    }
}

/// Makes a [`Reward`] the component's reward. Once per crate.
#[macro_export]
macro_rules! export_reward {
    ($plugin:ty) => {
        const _: () = {
            use world::exports::trainer::plugin::rewards;
            use $crate::bindings::reward as world;

            ::std::thread_local! {
                static STATE: $crate::glue::State<$plugin> = $crate::glue::State::new();
            }
            struct Component;

            impl rewards::Guest for Component {
                fn describe() -> rewards::Info {
                    let about = <$plugin as $crate::Reward>::ABOUT;
                    $crate::glue::describe(about, || {
                        $crate::glue::options("{}")
                            .and_then(|o| <$plugin as $crate::Reward>::new(o, 0))
                            .map(|p| $crate::Reward::reads(&p))
                    })
                }

                fn configure(options: String, seed: u64) -> Result<$crate::Reads, $crate::Error> {
                    STATE.with(|state| {
                        state.configure(
                            || {
                                let options = $crate::glue::options(&options)?;
                                <$plugin as $crate::Reward>::new(options, seed)
                            },
                            $crate::Reward::reads,
                        )
                    })
                }

                fn score(rows: $crate::Batch) -> Result<Vec<$crate::Score>, $crate::Error> {
                    STATE.with(|state| {
                        state.with(|p| $crate::Reward::score(p, &$crate::Rows::new(&rows)))
                    })
                }
            }

    world::export_reward_world!(Component with_types_in world);
        };
    };
}
