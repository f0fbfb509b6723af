import { task } from "@trigger.dev/sdk/v3";

export const hello = task({
  id: "hello",
  run: async (payload: { name: string }) => ({ greeting: `Hello, ${payload.name}` }),
});
