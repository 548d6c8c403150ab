//! `meridian-lb`: see the library.

fn main() -> anyhow::Result<()> {
    meridian_lb::app::run(meridian_runtime::config::parse())
}
