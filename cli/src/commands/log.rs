//! `larder log`.

use super::{Context, Outcome, absolute_reference};
use crate::{args::LogArgs, error, render};
use hyper::Method;
use larder_protocol::control::{AuditLine, ExaminedView, LogQuery};

pub(crate) async fn run(context: &Context, args: LogArgs) -> Outcome {
    if args.verify {
        let view = match larder_node::check_audit(&context.home)? {
            (view, false) => view,
            // A running node has the catalog open, and knows what was told of the log.
            (view, true) => {
                let node: ExaminedView = context.target().connect().await?.call(Method::GET, "/v1/doctor", &()).await?;
                larder_node::refuse_rolled_back(&node.findings)?;
                view
            }
        };
        context.show(&view, |view| {
            render::line(&format!("{} lines, none changed or missing; head {}", view.lines, view.head))
        });
        return Ok(error::OK);
    }
    let reference = args.reference.as_deref().map(absolute_reference).transpose()?;
    let lines: Vec<AuditLine> =
        context.target().connect().await?.call(Method::POST, "/v1/log", &LogQuery { reference }).await?;
    for line in &lines {
        context.show(line, |line| {
            let facts: Vec<_> = line.facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let text =
                format!("{}  {:<9} {:<7} {}  {}", line.time, line.action, line.result, line.subject, facts.join(" "));
            render::line(&render::escape(text.trim_end()));
        });
    }
    Ok(error::OK)
}
