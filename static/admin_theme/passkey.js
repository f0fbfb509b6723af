// Makes or uses a passkey, and sends what the browser gives as the form's credential. Codes need no script.
'use strict';
for (const form of document.querySelectorAll('form[data-passkey]')) {
    const said = form.querySelector('[data-said]');
    const button = form.querySelector('button');
    if (!window.PublicKeyCredential?.parseCreationOptionsFromJSON) {
        said.textContent = 'This browser cannot use passkeys here. Update it, or use a code.';
        continue;
    }
    const options = JSON.parse(form.dataset.options);
    const ask = () => form.dataset.passkey === 'make'
        ? navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) })
        : navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
    button.disabled = false;
    said.textContent = '';
    form.addEventListener('submit', async event => {
        event.preventDefault();
        button.disabled = true;
        try {
            form.elements.credential.value = JSON.stringify(await ask());
            form.submit();
        } catch (error) {
            said.textContent = error.name === 'InvalidStateError'
                ? 'This device has a passkey for this account already.'
                : 'The browser did not use a passkey: it was stopped, or took too long. Try again.';
            button.disabled = false;
        }
    });
}
