//! The login: the hook confirms a client's identity.

use std::sync::Arc;

use stomp_session::{Connect, Problem};
use tokio::time::Instant;

use super::{
    context::{Context, Identity},
    rights::Rights,
};
use crate::{
    auth::{Access, Admission, Carried, DeviceId, Fact, Login, Parameter, Refusal, User},
    deadline::after,
    hub::EnterError,
    node::UserPlace,
    presence::Device,
    telemetry::{self, ConnectionInfo},
};

// Presence can show each id that a token may name.
const _: () = assert!(DeviceId::MAX == Device::MAX_ID);

/// Has the hook confirm a client's identity, then its right to enter the virtual host: links are
/// made only for a client that has it. Answers until when the login counts, too, if it ends by
/// itself.
pub(super) async fn login(
    context: &Context,
    connect: &Connect,
    carried: Option<Box<Carried>>,
) -> Result<(Identity, Option<Instant>), Problem> {
    let settings = context.settings();
    let logins = &settings.logins;
    let (user, password) = logins
        .credentials(&connect.headers, carried.as_deref())
        .ok_or(Problem::MissingCredentials)?;
    let device_id = connect.headers.get("device-id").filter(|id| !id.is_empty());
    if let Some(problem) = context.refuse_banned(Some(&user), false, device_id) {
        return Err(problem);
    }
    let vhost = settings.vhost_for(connect.headers.get("host"));
    let mut more = carried.map_or_else(Vec::new, |carried| carried.parameters);
    more.extend(facts(context));
    let services = &context.services;
    let attempt = services.failed_logins.begin(context.address, &user)?;
    let login = Login {
        user,
        password,
        vhost: vhost.into(),
        more,
        address: context.address.ip(),
        is_known: attempt.is_known(),
    };
    let refused = |cause: &str| {
        let info = ConnectionInfo {
            user: Some(&*login.user).filter(|user| !user.is_empty()),
            vhost: Some(&login.vhost),
            ..context.info()
        };
        telemetry::login_refused(&info, cause);
    };
    if !attempt.delay().is_zero() {
        tokio::time::sleep(attempt.delay()).await;
    }
    let answer = services.auth.log_in(&login).await;
    match &answer {
        Ok(admission) if *admission.user.name == *login.user => attempt.succeeded(),
        // Nothing was proved of the name that the client said.
        Ok(_) => drop(attempt),
        Err(Refusal::Denied(_)) => attempt.failed(),
        // The hook's fault is no failed login.
        Err(Refusal::Faulty(_) | Refusal::NoKeys(_) | Refusal::Busy) => drop(attempt),
    }
    let Admission {
        user,
        lifetime,
        device,
    } = answer.map_err(|refusal| {
        refused(&refusal.to_string());
        let user = login.user.clone();
        match refusal {
            Refusal::Denied(_) => Problem::AccessRefused { user },
            Refusal::Faulty(_) | Refusal::NoKeys(_) => Problem::LoginUnavailable { user },
            Refusal::Busy => Problem::LoginBusy,
        }
    })?;
    let until = lifetime.map(after);
    let device = device.or_said(device_id);
    let device_id = device.as_deref();
    // The hook may have named another.
    if let Some(problem) = context.refuse_banned(Some(&user.name), true, device_id) {
        return Err(problem);
    }
    let denied = || match is_machine(vhost) {
        true => Problem::HostIsNoVhost {
            host: vhost.into(),
            vhost: (*settings.default_vhost).into(),
        },
        false => Problem::VhostDenied {
            vhost: vhost.into(),
        },
    };
    if !services.vhosts.allows(vhost) {
        refused(&format!("virtual host {vhost:?} is not in broker.vhosts"));
        return Err(denied());
    }
    let access = Access::Vhost {
        vhost: Arc::clone(&login.vhost),
        ip: context.address.ip(),
    };
    services
        .auth
        .allow(&user, &access)
        .await
        .map_err(|refusal| {
            refused(&refusal.to_string());
            match refusal {
                Refusal::Denied(_) => denied(),
                Refusal::Busy => Problem::LoginBusy,
                Refusal::Faulty(_) | Refusal::NoKeys(_) => Problem::EntryUnavailable {
                    vhost: vhost.into(),
                },
            }
        })?;
    let place = enter(context, &user).await?;
    let vhost = services.vhosts.enter(vhost).await.map_err(|error| {
        refused(&error.to_string());
        match error {
            EnterError::Refused(_) => denied(),
            EnterError::Unavailable(why) => Problem::BrokerUnavailable(format!("{why}\n").into()),
        }
    })?;
    let rights = settings.recheck.map(|_| Box::new(Rights::new(login)));
    let device = device.filter(|id| id.len() <= Device::MAX_ID);
    Ok((Identity::new(user, vhost, place, rights, device), until))
}

/// What of the connection the hook is told.
pub(super) fn facts(context: &Context) -> impl Iterator<Item = Parameter> {
    let logins = &context.settings().logins;
    logins.facts().iter().map(|(fact, name)| {
        let value = match fact {
            Fact::ClientIp => context.address.ip().to_string().into(),
            Fact::Session => context.session.clone(),
            Fact::Node => logins.node().into(),
            Fact::Transport => context.transport.into(),
        };
        (Arc::clone(name), value)
    })
}

/// Takes a place among the connections of the user. Presence is asked about other nodes only where
/// the user has many on this one.
async fn enter(context: &Context, user: &User) -> Result<UserPlace, Problem> {
    /// Of its connections, the share of one node from which on others are looked at.
    const MANY: u32 = 8;
    let services = &context.services;
    let place = services.users.enter(&user.name)?;
    if let (Some(presence), Some(most)) = (&services.presence, services.users.max_connections())
        && place.connections() > most.div_ceil(MANY)
        // Where presence cannot say, this node's own count is the bound.
        && let Ok(count) = presence.count_sessions(&user.name).await
        && count >= u64::from(most)
    {
        return Err(services.users.too_many_connections(&user.name));
    }
    Ok(place)
}

/// True if a text is rather a machine's name than a virtual host's: many client libraries send the
/// name of the machine that they connect to.
fn is_machine(host: &str) -> bool {
    host == "localhost" || host.contains(['.', ':'])
}
