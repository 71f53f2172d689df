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
