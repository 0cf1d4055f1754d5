// Views of the visitor's own: addresses of pages with names, kept in this browser only. As text, they go to another one.

const KEY = 'postrider-views';
const VIEWS_MAX = 50;
const NAME_MAX = 60;
const PATH_MAX = 2000;
/** A way to a page of the dashboard, and to nothing else. */
const OWN = /^[a-z0-9_/-]*(\?.*)?$/i;

/** @typedef {{name: string, path: string}} View */

const menu = document.getElementById('views');
if (menu) open(menu);

/** @returns {View[]} */
function stored() {
    try {
        const views = JSON.parse(localStorage.getItem(KEY) ?? '[]');
        return Array.isArray(views) ? sound(views) : [];
    } catch { return []; }
}

/** Leaves out what is no view; of two with one name, the later one is meant. @param {View[]} views @returns {View[]} */
function sound(views) {
    const known = new Map();
    for (const view of views) {
        const name = String(view?.name ?? '').trim().slice(0, NAME_MAX);
        const path = String(view?.path ?? '').trim();
        const isOwn = OWN.test(path) && !path.split('?')[0].includes('//') && !path.startsWith('/');
        if (name && isOwn && path.length <= PATH_MAX) known.set(name, { name, path });
    }
    return [...known.values()].slice(-VIEWS_MAX);
}

/** @param {string} text @returns {View[]} */
function parse(text) {
    const lines = text.split('\n').filter(line => line.includes('='));
    return sound(lines.map(line => {
        const at = line.indexOf(' = ') < 0 ? line.indexOf('=') : line.indexOf(' = ') + 1;
        return { name: line.slice(0, at), path: line.slice(at + 1) };
    }));
}

/** @param {HTMLElement} menu */
function open(menu) {
    const root = menu.dataset.root ?? '';
    const list = menu.querySelector('#own-views');
    const name = menu.querySelector('#view-name');
    const text = menu.querySelector('#views-text');

    /** @param {View[]} views @param {string} said */
    function keep(views, said) {
        try {
            localStorage.setItem(KEY, JSON.stringify(sound(views)));
            announce(said);
        } catch { announce('This browser keeps nothing for pages'); }
        show();
    }

    /** @param {View} view */
    function row(view) {
        const row = document.createElement('li');
        const link = document.createElement('a');
        link.href = `./${root}${view.path}`;
        link.textContent = view.name;
        const drop = document.createElement('button');
        drop.type = 'button';
        drop.className = 'drop';
        drop.textContent = '×';
        drop.setAttribute('aria-label', `Forget the view ${view.name}`);
        drop.addEventListener('click', event => {
            // The row is gone by the time the page looks whether the click was in the menu.
            event.stopPropagation();
            keep(stored().filter(other => other.name !== view.name), 'Forgotten');
        });
        row.append(link, drop);
        return row;
    }

    function show() {
        const views = stored();
        list?.replaceChildren(...views.map(row));
        list?.toggleAttribute('hidden', views.length === 0);
        if (text instanceof HTMLTextAreaElement) text.value = views.map(view => `${view.name} = ${view.path}`).join('\n');
    }

    menu.querySelector('#keep-view')?.addEventListener('submit', event => {
        event.preventDefault();
        if (!(name instanceof HTMLInputElement)) return;
        // A place within a list is no view: its rows move on.
        const fields = new URLSearchParams(location.search);
        fields.delete('cursor');
        fields.delete('earlier');
        const query = fields.size > 0 ? `?${fields}` : '';
        keep([...stored(), { name: name.value.replaceAll('=', ' '), path: `${menu.dataset.page ?? ''}${query}` }], 'Kept');
        name.value = '';
    });
    menu.querySelector('#views-text-form')?.addEventListener('submit', event => {
        event.preventDefault();
        if (text instanceof HTMLTextAreaElement) keep(parse(text.value), 'Taken');
    });
    show();
}

/** Tells people who cannot see it what has happened. @param {string} sentence */
function announce(sentence) {
    const announcer = document.getElementById('announcer');
    if (announcer) announcer.textContent = sentence;
}
