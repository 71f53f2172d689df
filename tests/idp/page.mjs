// The one page of the local provider. It says on itself what it is, so that nobody takes it for a real one.

const escape = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

const STYLE = `
:root { color-scheme: light dark; --paper: #f4f1ea; --card: #fff; --ink: #23201a; --quiet: #6a6353; --line: #8d8571; --mark: #7a4b00; --mark-soft: #ffefc9; --go: #23201a; --go-ink: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #171511; --card: #211e18; --ink: #eee9df; --quiet: #b0a895; --line: #7b7361; --mark: #ffd98a; --mark-soft: #3a2c0c; --go: #eee9df; --go-ink: #171511; }
}
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: start center; padding: 10vh 1rem 2rem; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { width: 100%; max-width: 25rem; background: var(--card); border: 1px dashed var(--line); border-radius: 12px; padding: 1.5rem; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; }
p { margin: 0 0 1rem; }
.mark { background: var(--mark-soft); color: var(--mark); border-radius: 8px; padding: .6rem .8rem; font-size: .9rem; }
.quiet { color: var(--quiet); font-size: .9rem; }
label { display: block; font-weight: 600; margin-bottom: .3rem; }
input, button { font: inherit; width: 100%; min-height: 2.75rem; border-radius: 8px; padding: .5rem .75rem; }
input { border: 1px solid var(--line); background: var(--paper); color: inherit; margin-bottom: .6rem; }
button { border: 0; background: var(--go); color: var(--go-ink); font-weight: 600; cursor: pointer; }
.people { display: grid; gap: .5rem; margin: 1rem 0; }
.people button { background: transparent; color: inherit; border: 1px solid var(--line); text-align: left; font-weight: 400; }
:focus-visible { outline: 3px solid #2b7de0; outline-offset: 2px; }
a { color: inherit; }
`;

/** Somebody says who they are; nobody checks. */
export const signInPage = ({ uid, client, people }) => {
  const known = Object.entries(people).filter(([, person]) => person.email_verified);
  const button = ([login, { name, email }]) =>
    `<button name="login" value="${escape(login)}">${escape(name)} <span class="quiet">${escape(email)}</span></button>`;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Local sign-in (development only)</title><link rel="icon" href="data:,"><style>${STYLE}</style></head>
<body><main>
<p class="mark"><strong>Development only.</strong> This provider runs on your machine and checks nothing: anybody here may be anybody.</p>
<h1>Who are you this time?</h1>
<p class="quiet">Signing in to ${escape(client)}</p>
<form method="post" action="/interaction/${escape(uid)}">
<label for="login">Any e-mail address</label>
<input id="login" name="login" required maxlength="200" autocomplete="off" autocapitalize="none" spellcheck="false" placeholder="you@example.com">
<button>Continue</button>
</form>
<form class="people" method="post" action="/interaction/${escape(uid)}">${known.map(button).join('')}</form>
<p class="quiet"><a href="/interaction/${escape(uid)}/abort">No, take me back</a></p>
</main></body></html>
`;
};
