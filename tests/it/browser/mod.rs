//! What people do, in a real Chromium: through the pages, with cookies, policies and scripts as they are in a browser, and
//! with a real OpenID provider.

mod accounts;
mod dev;
mod fixture;
mod journey;
mod pages;
