// The page of a portal link: takes the token from the address, so that it stays in no history, and signs in with it.

const form = document.getElementById('portal');

/** Signs in with the token of the address, if there is one. */
function enter() {
    const token = location.hash.slice(1);
    if (!token || !(form instanceof HTMLFormElement)) return;
    history.replaceState(null, '', location.pathname);
    const field = form.elements.namedItem('key');
    if (!(field instanceof HTMLInputElement)) return;
    field.value = token;
    form.hidden = true;
    const opening = document.getElementById('opening');
    if (opening) opening.hidden = false;
    form.submit();
}

// A link that is pasted while the page is there changes only what is behind `#`.
window.addEventListener('hashchange', enter);
// Whoever comes back to the page by the browser's history finds the form again.
window.addEventListener('pageshow', event => {
    if (!event.persisted || !(form instanceof HTMLFormElement)) return;
    form.reset();
    form.hidden = false;
    const opening = document.getElementById('opening');
    if (opening) opening.hidden = true;
});
enter();
