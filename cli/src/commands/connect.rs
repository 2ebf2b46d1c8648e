//! `larder connect`.

use super::{Context, Outcome, secrets};
use crate::{
    args::{ConnectArgs, ServiceArg},
    error, render,
};
use hyper::Method;
use larder_protocol::control::{
    ConnectRequest, ConnectView, ControlError, CredentialView, LoginService, ProfileView, StreamItem,
};
use std::collections::BTreeMap;

pub(crate) async fn run(context: &Context, args: ConnectArgs) -> Outcome {
    let (service, provider) = match args.service {
        ServiceArg::Google => (LoginService::Google, "gdrive"),
        ServiceArg::Microsoft => (LoginService::Microsoft, "onedrive"),
    };
    let mut client = context.target().connect().await?;
    let credentials: Vec<CredentialView> = client.call(Method::GET, "/v1/credentials", &()).await?;
    let profiles: Vec<ProfileView> = client.call(Method::GET, "/v1/profiles", &()).await?;
    let fits = |name: &str| match &args.profile {
        Some(profile) => profile == name,
        None => profiles.iter().any(|profile| profile.name == name && profile.provider.as_deref() == Some(provider)),
    };
    let known = credentials.iter().any(|view| fits(&view.name) && view.set.iter().any(|name| name == "client_id"));
    let given = if known {
        BTreeMap::new()
    } else {
        secrets::lines("The OAuth client that you have registered with the service: client_id, maybe client_secret.")?
    };
    let request =
        ConnectRequest { service, device_code: args.device_code, profile: args.profile.clone(), client: given };
    let mut failed = None;
    client
        .stream("/v1/connect", &request, |item: StreamItem<ConnectView>| match item {
            StreamItem::Result(view) => show(context, &view),
            StreamItem::Error(error) => failed = Some(error),
            StreamItem::Progress(_) | StreamItem::End => {}
        })
        .await?;
    failed.map_or(Ok(error::OK), Err::<u8, ControlError>)
}

fn show(context: &Context, view: &ConnectView) {
    context.show(view, |view| {
        if let Some(url) = &view.url {
            context.note("Open this page and log in:");
            render::line(&render::escape(url));
        }
        if let Some(code) = &view.user_code {
            context.note("Enter this code there:");
            render::line(&render::escape(code));
        }
        if view.connected {
            let profile = render::escape(&view.profile);
            render::line(&format!("{profile} is connected on this device."));
        }
    });
}
