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
