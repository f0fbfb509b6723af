// Small comforts. Every page works without this file: menus close by their own summary, and code can be selected.
'use strict';
{
    const menus = () => document.querySelectorAll('details:is(.filter, .row-menu)[open]');
    document.addEventListener('click', event => {
        for (const menu of menus()) if (!menu.contains(event.target)) menu.open = false;
    });
    document.addEventListener('keydown', event => {
        if (event.key !== 'Escape') return;
        for (const menu of menus()) {
            menu.open = false;
            menu.querySelector('summary').focus();
        }
    });
    // The key “/” goes to the search of a list, unless somebody turned it off on “Your log-in” in this browser (D-slash-key).
    const SLASH = 'slash-key';
    const stored = (...change) => {
        try {
            return change.length ? localStorage.setItem(SLASH, change[0]) : localStorage.getItem(SLASH);
        } catch {
            return null; // a browser that stores nothing
        }
    };
    const search = document.getElementById('searchbar');
    if (search && stored() !== 'off') {
        search.setAttribute('aria-keyshortcuts', '/');
        search.title = 'The key / moves the focus here. Turn it off on “Your log-in”.';
        document.addEventListener('keydown', event => {
            if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey) return;
            if (event.target.closest('input, select, textarea, [contenteditable]')) return;
            event.preventDefault();
            search.focus();
            search.select();
        });
    }
    const choice = document.getElementById('slash-key');
    if (choice) {
        choice.checked = stored() !== 'off';
        choice.addEventListener('change', () => stored(choice.checked ? 'on' : 'off'));
        choice.closest('[hidden]').hidden = false;
    }
    const addCopyButtons = () => {
        for (const code of document.querySelectorAll('code.copy')) {
            if (!code.nextElementSibling?.matches('.copy-button')) addCopyButton(code);
        }
    };
    const addCopyButton = code => {
        const button = document.createElement('button');
        button.type = 'button';
        button.dataset.byScript = '';
        button.className = 'copy-button';
        button.textContent = 'Copy';
        button.addEventListener('click', async () => {
            await navigator.clipboard.writeText(code.textContent);
            button.textContent = 'Copied';
            setTimeout(() => { button.textContent = 'Copy'; }, 1500);
        });
        code.after(button);
    };
    if (navigator.clipboard) {
        addCopyButtons();
        document.addEventListener('renewed', addCopyButtons);
    }
}
