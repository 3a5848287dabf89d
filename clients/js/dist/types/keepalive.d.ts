export interface KeepaliveActions {
    ping(): void;
    lost(): void;
}
export declare class Keepalive {
    #private;
    constructor(seconds: number | false, actions: KeepaliveActions);
    begin(): void;
    end(): void;
    heard(): void;
}
