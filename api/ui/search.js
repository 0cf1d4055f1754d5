// The search of the bar completes what is typed: words, types of events, and subscriptions, as the server knows them.

const box = document.getElementById('q');
const words = document.getElementById('search-words');
/** How long nothing is typed before the server is asked, in milliseconds. */
const QUIET_MS = 150;

let waiting = 0;
let asked = '';

async function complete() {
    if (!(box instanceof HTMLInputElement) || !box.form || !words) return;
    asked = box.value;
    const fields = new URLSearchParams([...new FormData(box.form)].map(([name, value]) => [name, String(value)]));
    try {
        const answer = await fetch(`${box.form.action.split('?')[0]}/words?${fields}`);
        if (!answer.ok || asked !== box.value) return;
        const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
        words.replaceChildren(...page.querySelectorAll('option'));
    } catch { /* what is typed can be sent all the same */ }
}

box?.addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(complete, QUIET_MS);
});
box?.addEventListener('focus', complete);
