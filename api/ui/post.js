// The form that posts an event: it says while one types whether the payload is JSON, and the browser keeps the last ten.

const KEY = 'postrider-posted';
const POSTED_MAX = 10;
/** Events with more characters are not kept. */
const CHARACTERS_MAX = 20_000;
/** The fields that are kept. */
const NAMES = ['event_type', 'payload', 'subscription_id', 'tenant_id', 'id', 'metadata'];

const form = document.getElementById('post-event');
if (form instanceof HTMLFormElement) watch(form);

/** @typedef {Record<string, string>} Posted */

/** @returns {Posted[]} */
function stored() {
    try {
        const posted = JSON.parse(localStorage.getItem(KEY) ?? '[]');
        return Array.isArray(posted) ? posted.filter(one => typeof one?.event_type === 'string') : [];
    } catch { return []; }
}

/** @param {HTMLFormElement} form */
function watch(form) {
    const payload = form.elements.namedItem('payload');
    const said = document.getElementById('post-payload-said');
    const list = document.getElementById('post-earlier');

    function judge() {
        if (!(payload instanceof HTMLTextAreaElement) || !said) return;
        let why = '';
        try { JSON.parse(payload.value); } catch (error) { why = error instanceof Error ? error.message : String(error); }
        const isEmpty = payload.value.trim() === '';
        payload.setCustomValidity(isEmpty || !why ? '' : `This is not JSON: ${why}`);
        said.textContent = isEmpty ? '' : why ? `Not JSON yet: ${why}` : 'This is JSON.';
        const isWrong = !isEmpty && why !== '';
        said.className = isWrong ? 'wrong' : 'hint';
        if (isWrong) payload.setAttribute('aria-invalid', 'true');
        else payload.removeAttribute('aria-invalid');
    }

    function keep() {
        const fields = new FormData(form);
        const posted = Object.fromEntries(NAMES.map(name => [name, String(fields.get(name) ?? '')]));
        const text = JSON.stringify(posted);
        if (text.length > CHARACTERS_MAX) return;
        const others = stored().filter(one => JSON.stringify(one) !== text);
        try { localStorage.setItem(KEY, JSON.stringify([posted, ...others].slice(0, POSTED_MAX))); } catch { /* not kept */ }
    }

    function show() {
        const posted = stored();
        list?.closest('div')?.toggleAttribute('hidden', posted.length === 0);
        if (!(list instanceof HTMLSelectElement)) return;
        const name = one => `${one.event_type}  ${one.payload.replace(/\s+/g, ' ').slice(0, 60)}`;
        list.replaceChildren(new Option('Choose one …', ''), ...posted.map((one, place) => new Option(name(one), String(place))));
    }

    list?.addEventListener('change', () => {
        const chosen = list instanceof HTMLSelectElement ? stored()[Number(list.value)] : undefined;
        if (!chosen || (list instanceof HTMLSelectElement && list.value === '')) return;
        for (const name of NAMES) {
            const field = form.elements.namedItem(name);
            if (field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement) field.value = chosen[name] ?? '';
        }
        judge();
    });
    form.addEventListener('input', judge);
    form.addEventListener('submit', keep);
    judge();
    show();
}
