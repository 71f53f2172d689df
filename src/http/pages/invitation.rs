//! Somebody with an invitation's link: what it is, and the seat.

use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::{Frame, Pages, page};
use crate::http::browser::{Answer, AnyVisitor, MeantByAny, see_other, with_query};
use crate::http::vocabulary::Path;
use crate::identity::invitations::{Invited, invitation_accept, invitation_look};
use crate::kernel::ids::InvitationId;

#[derive(Template)]
#[template(path = "pages/invitation.html")]
struct Page {
    frame: Frame,
    /// Signed in as; none for a stranger, who signs in first.
    who: Option<String>,
    csrf: String,
    id: InvitationId,
    secret: String,
    sign_in: String,
    invited: Invited,
}

#[derive(Deserialize)]
pub struct Link {
    secret: String,
}

/// `GET /invitations/{id}?secret=`
pub async fn show(
    visitor: Option<AnyVisitor>,
    State(pages): State<Pages>,
    Path(id): Path<InvitationId>,
    Query(link): Query<Link>,
) -> Answer {
    let invited = invitation_look(&pages.site.identity, id, &link.secret).await?;
    let back = with_query(&format!("/invitations/{id}"), &[("secret", &link.secret)]);
    let visitor = visitor.map(|AnyVisitor(visitor)| visitor);
    Ok(page(&Page {
        frame: Frame::default(),
        csrf: visitor.as_ref().map(|visitor| visitor.csrf()).unwrap_or_default(),
        who: visitor.map(|visitor| visitor.person.name.to_string()),
        id,
        secret: link.secret,
        sign_in: with_query("/sign-in", &[("return_to", &back)]),
        invited,
    }))
}

/// `POST /invitations/{id}`
pub async fn accept(
    State(pages): State<Pages>,
    Path(id): Path<InvitationId>,
    MeantByAny(visitor, link): MeantByAny<Link>,
) -> Answer {
    let identity = &pages.site.identity;
    // Sent by a workspace's own provider: for a seat there, and nowhere else.
    let visitor = match visitor.only {
        None => visitor,
        Some(only) => {
            let invited = invitation_look(identity, id, &link.secret).await?;
            if invited.tenant == only { visitor } else { visitor.by_own_means()? }
        }
    };
    let invited = invitation_accept(identity, &visitor.caller(), visitor.person.id, id, &link.secret).await?;
    Ok(see_other(&match visitor.only {
        Some(_) => format!("/go/{}", invited.slug),
        None => format!("/new/{}", invited.tenant),
    }))
}
