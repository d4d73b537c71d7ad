//! Progress on standard error; `indicatif` hides it when that is not a terminal.

use std::borrow::Cow;

use indicatif::{ProgressBar, ProgressStyle};

const COUNTED: &str = "{msg} {wide_bar} {pos}/{len} {per_sec} eta {eta}";
const PLAIN: &str = "{spinner} {msg}";

/// A bar of `total` steps.
pub(crate) fn counted(total: u64, message: &'static str) -> ProgressBar {
    styled(ProgressBar::new(total), COUNTED, message.into())
}

/// One line that says what is going on.
pub(crate) fn plain(message: String) -> ProgressBar {
    let line = styled(ProgressBar::new_spinner(), PLAIN, message.into());
    line.tick();
    line
}

fn styled(bar: ProgressBar, template: &str, message: Cow<'static, str>) -> ProgressBar {
    let bar = match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    bar.with_message(message)
}
