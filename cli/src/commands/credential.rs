//! `larder credential`.

use super::{Context, Outcome, secrets};
use crate::{
    args::{CredentialCommand, ProtectionArg},
    error, render,
};
use hyper::Method;
use larder_protocol::control::{
    CredentialView, NamedRequest, ProfileView, ProtectCredentials, Protection, ProtectionView, ProviderView,
    SetCredential, UnlockCredentials,
};

pub(crate) async fn run(context: &Context, command: CredentialCommand) -> Outcome {
    match command {
        CredentialCommand::Set { profile, no_test } => set(context, profile, no_test).await?,
        CredentialCommand::List => {
            let list: Vec<CredentialView> =
                context.target().connect().await?.call(Method::GET, "/v1/credentials", &()).await?;
            if context.json {
                list.iter().for_each(render::json);
            } else {
                let row = |view: &CredentialView| {
                    let provider = view.provider.clone().unwrap_or_else(|| "(profile is gone)".to_owned());
                    vec![view.name.clone(), provider, view.set.join(", "), view.next.clone().unwrap_or_default()]
                };
                render::table(&["PROFILE", "PROVIDER", "SET", "NEXT"], &list.iter().map(row).collect::<Vec<_>>());
            }
        }
        CredentialCommand::Remove { profile } => {
            let request = NamedRequest { name: profile };
            let view: CredentialView =
                context.target().connect().await?.call(Method::POST, "/v1/credentials/remove", &request).await?;
            context.show(&view, |view| {
                render::line(&format!(
                    "The credential for {} is removed from this device.",
                    render::escape(&view.name)
                ));
                context.note("It may still be good: take it back where it was issued.");
            });
        }
        CredentialCommand::Unlock => {
            let mut client = context.target().connect().await?;
            // Only a passphrase is asked for; a keyring is asked by the node.
            let request = UnlockCredentials { passphrase: None };
            let view = match client.call(Method::POST, "/v1/credentials/unlock", &request).await {
                Err(error) if error.kind == larder_protocol::control::ErrorKind::CredentialsLocked => {
                    let request = UnlockCredentials { passphrase: Some(secrets::passphrase("Passphrase")?) };
                    client.call(Method::POST, "/v1/credentials/unlock", &request).await?
                }
                other => other?,
            };
            context.show::<ProtectionView>(&view, |_| render::line("The credentials of this device are unlocked."));
        }
        CredentialCommand::Protect { by } => {
            let protection = match by {
                ProtectionArg::File => Protection::File,
                ProtectionArg::Passphrase => Protection::Passphrase,
                ProtectionArg::Keyring => Protection::Keyring,
            };
            let passphrase = if protection == Protection::Passphrase { Some(secrets::new_passphrase()?) } else { None };
            let request = ProtectCredentials { protection, passphrase };
            let view: ProtectionView =
                context.target().connect().await?.call(Method::POST, "/v1/credentials/protect", &request).await?;
            context.show(&view, |_| match protection {
                Protection::File => render::line("The key is in a file that only you can read."),
                Protection::Keyring => render::line("The key is in the keyring."),
                Protection::Passphrase => {
                    render::line("The passphrase gives the key; it is kept nowhere.");
                    context.note(
                        "After each start: larder credential unlock, or start with larder up --passphrase-stdin.",
                    );
                }
            });
        }
    }
    Ok(error::OK)
}

async fn set(context: &Context, profile: String, untested: bool) -> Result<(), larder_protocol::control::ControlError> {
    let mut client = context.target().connect().await?;
    let named = NamedRequest { name: profile.clone() };
    let known: ProfileView = client.call(Method::POST, "/v1/profiles/show", &named).await?;
    let providers: Vec<ProviderView> = client.call(Method::GET, "/v1/providers", &()).await?;
    let provider = providers.into_iter().find(|provider| Some(&provider.name) == known.provider.as_ref());
    let names: Vec<String> = provider
        .map(|provider| provider.settings)
        .unwrap_or_default()
        .into_iter()
        .filter(|setting| setting.secret)
        .map(|setting| if setting.required { format!("{} (required)", setting.name) } else { setting.name })
        .collect();
    let values = secrets::lines(&format!("A credential for {profile} has: {}.", names.join(", ")))?;
    let request = SetCredential { profile, values, untested };
    let view: CredentialView = client.call(Method::POST, "/v1/credentials", &request).await?;
    context.show(&view, |view| {
        let how = match view.tested {
            Some(true) => "was tried and is kept on this device",
            _ => "is kept on this device; it is not tested yet",
        };
        render::line(&format!("The credential for {} {how}.", render::escape(&view.name)));
        if let Some(next) = &view.next {
            context.note(&format!("Next: {next}"));
        }
    });
    Ok(())
}
