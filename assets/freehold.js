// Small helps; every page works without them.

// A form is sent once: a second click while the first is under way does nothing.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "1";
  setTimeout(() => delete form.dataset.sent, 5000);
});

// Questions before what cannot be undone.
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-ask]");
  if (button && !window.confirm(button.dataset.ask)) event.preventDefault();
});

// A choice in a list is sent by the button beside it, which shows when there is something to send.
for (const choice of document.querySelectorAll("select[data-send]")) {
  const button = choice.form.querySelector("button");
  const chosen = choice.value;
  button.hidden = true;
  choice.addEventListener("change", () => {
    button.hidden = choice.value === chosen;
  });
}

// An open menu closes by Escape, and by a click beside it.
const close = (keep) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== keep) menu.open = false;
};
document.addEventListener("click", (event) => close(event.target.closest("details.menu")));
document.addEventListener("keydown", (event) => {
  const open = document.querySelector("details.menu[open]");
  if (event.key !== "Escape" || !open) return;
  close();
  open.querySelector("summary").focus();
});

// After a refusal, back to what was filled in.
const back = document.querySelector("[data-back]");
if (back && history.length > 1) {
  back.hidden = false;
  back.addEventListener("click", () => history.back());
}

// The address follows the name until it is touched, and says whether it is free.
const slug = document.querySelector("[data-slug]");
if (slug) {
  const name = document.querySelector("[data-slug-from]");
  const hint = document.querySelector("[data-slug-hint]");
  let touched = slug.value !== "";
  let last = 0;
  const ask = async (query) => {
    const mine = ++last;
    try {
      const answer = await fetch("/new/slug?" + new URLSearchParams(query));
      const said = await answer.json();
      if (mine !== last) return;
      if (!touched) slug.value = said.slug;
      hint.textContent = said.hint;
      slug.setAttribute("aria-invalid", String(!said.free));
    } catch {
      // Without an answer the form says it when it is sent.
    }
  };
  let wait;
  const later = (query) => {
    clearTimeout(wait);
    wait = setTimeout(ask, 250, query);
  };
  name.addEventListener("input", () => touched || later({ name: name.value }));
  slug.addEventListener("input", () => {
    touched = slug.value !== "";
    later({ slug: slug.value });
  });
}

// A run's progress, step by step; at its end the page is loaded anew and says what came of it.
const follow = document.querySelector("[data-follow]");
if (follow) {
  const events = new EventSource(follow.dataset.follow);
  events.onmessage = (event) => {
    const run = JSON.parse(event.data);
    for (const step of run.steps) {
      const item = follow.querySelector(`[data-step="${CSS.escape(step.name)}"]`);
      if (item) item.className = step.class;
    }
    if (run.over) {
      events.close();
      location.reload();
    }
  };
}
