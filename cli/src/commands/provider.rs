//! `larder provider`.

use super::{Context, Outcome};
use crate::{args::ProviderCommand, error, render};
use hyper::Method;
use larder_protocol::control::{ControlError, ErrorKind, ProviderView, SettingView};

pub(crate) async fn run(context: &Context, command: ProviderCommand) -> Outcome {
    let ProviderCommand::List { provider } = command;
    let mut providers: Vec<ProviderView> =
        context.target().connect().await?.call(Method::GET, "/v1/providers", &()).await?;
    if let Some(name) = &provider {
        providers.retain(|provider| provider.name == *name);
        if providers.is_empty() {
            let detail = "'larder provider list' shows the providers";
            return Err(ControlError::new(ErrorKind::UnknownReference, name).detail(detail));
        }
    }
    if context.json {
        providers.iter().for_each(render::json);
        return Ok(error::OK);
    }
    let row = |provider: &ProviderView, setting: &SettingView| {
        let need = match (&setting.default, setting.required) {
            (Some(default), _) => format!("[{default}]"),
            (None, true) => "required".to_owned(),
            (None, false) => String::new(),
        };
        let given = if setting.secret { "credential" } else { "profile" };
        vec![provider.name.clone(), setting.name.clone(), given.to_owned(), need, setting.help.clone()]
    };
    let rows: Vec<_> = providers
        .iter()
        .flat_map(|provider| {
            let none = provider.settings.is_empty().then(|| vec![provider.name.clone()]);
            none.into_iter().chain(provider.settings.iter().map(move |setting| row(provider, setting)))
        })
        .collect();
    render::table(&["PROVIDER", "SETTING", "GIVEN TO", "NEED", "WHAT IT IS"], &rows);
    Ok(error::OK)
}
