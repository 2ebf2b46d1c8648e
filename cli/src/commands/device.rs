//! `larder device`.

use super::{Context, Outcome};
use crate::{args::DeviceCommand, error, render};
use hyper::Method;
use larder_protocol::control::{DeviceView, NamedRequest};

pub(crate) async fn run(context: &Context, command: DeviceCommand) -> Outcome {
    let mut client = context.target().connect().await?;
    let devices: Vec<DeviceView> = match command {
        DeviceCommand::List => client.call(Method::GET, "/v1/devices", &()).await?,
        DeviceCommand::Show { device } => {
            vec![client.call(Method::POST, "/v1/devices/show", &NamedRequest { name: device }).await?]
        }
    };
    if context.json {
        devices.iter().for_each(render::json);
    } else {
        let online = |device: &DeviceView| match (device.this, device.online) {
            (true, _) => "this device",
            (false, true) => "online",
            (false, false) => "off",
        };
        let row = |d: &DeviceView| vec![d.name.clone(), d.role.clone(), online(d).to_owned(), d.id.clone()];
        render::table(&["NAME", "ROLE", "STATE", "ID"], &devices.iter().map(row).collect::<Vec<_>>());
    }
    Ok(error::OK)
}
