"""The codes of errors that have one meaning, with or without parts.

A new error code is one word in `_BY_CODE`. Codes are compared in lower case without punctuation:
contentFilter is content_filter.
"""

import re

from dagster_imagegen.engine.endpoint.kinds import FailureKind

_BY_CODE: dict[str, FailureKind] = {
    code.replace("_", ""): kind
    for kind, codes in {
        FailureKind.REFUSED: (
            # OpenAI, Azure, LiteLLM, fal, Stability, xAI, Bedrock
            "moderation_blocked content_policy_violation content_policy_violation_error "
            "content_filter content_filtered responsible_ai_policy_violation "
            "content_moderation content_moderated content_moderation_error guardrail_intervened "
            "guardrail_violation usage_policy_violation usage_guidelines_violation "
            "content_policy policy_violation content_violation safety_violation safety_error "
            # Google: block and finish reasons
            "safety image_safety prohibited_content image_prohibited_content blocklist spii "
            "recitation image_recitation model_armor unsafe_generation "
            "public_error_unsafe_generation "
            # Together, BFL, Ark, Model Studio and other hosts of open models
            "nsfw nsfw_content nsfw_detected nsfw_content_detected request_moderated "
            "input_moderated output_moderated prompt_blocked content_blocked image_blocked "
            "sensitive_content sensitive_content_detected input_text_sensitive_content_detected "
            "output_image_sensitive_content_detected data_inspection_failed unsafe_content "
            "internal_error_algo_data_inspection_failed input_text_risk_detection "
            "inappropriate_content unavailable_for_legal_reasons refusal"
        ),
        FailureKind.OUT_OF_CREDIT: (
            "insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded "
            "project_spend_limit_exceeded organization_usage_limit_exceeded "
            "billing_hard_limit_reached billing_limit_user_error billing_not_active billing_error "
            "billing_disabled insufficient_credits insufficient_credit insufficient_balance "
            "insufficient_balance_error insufficient_funds not_enough_credits not_enough_balance "
            "credits_exhausted out_of_credits no_credits payment_required payment_required_error "
            "spend_limit_exceeded spending_limit_exceeded spend_limit_reached "
            "spending_limit_reached monthly_spend_limit_exceeded "
            # LiteLLM, one-api, Moonshot, Ark, Model Studio
            "budget_exceeded budget_exceeded_error exceeded_budget insufficient_user_quota "
            "pre_consume_token_quota_failed exceeded_current_quota_error account_overdue_error "
            "account_overdue arrearage prepaid_bill_overdue service_overdue free_tier_only"
        ),
        FailureKind.MISCONFIGURED: (
            # the key and the account
            "invalid_api_key incorrect_api_key api_key_invalid api_key_expired api_key_missing "
            "missing_api_key no_api_key key_invalid invalid_key expired_key invalid_token "
            "token_expired token_not_found_in_db authentication_error auth_error "
            "authentication_failed invalid_authentication unauthenticated account_deactivated "
            "account_suspended account_disabled consumer_suspended consumer_invalid "
            "service_disabled access_not_configured api_key_service_blocked "
            "api_key_http_referrer_blocked api_key_ip_address_blocked "
            "unrecognized_client_exception organization_not_verified "
            "unsupported_country_region_territory "
            # the model
            "model_not_found model_not_exist model_does_not_exist invalid_model "
            "invalid_model_name invalid_model_id unknown_model unsupported_model "
            "model_not_supported model_shutdown model_retired model_deprecated "
            "model_decommissioned model_access_denied key_model_access_denied "
            "team_model_access_denied user_model_access_denied deployment_not_found "
            "invalid_endpoint_or_model_not_found model_not_open model_id_access_disabled "
            "unpurchased "
            # the parameters and the address
            "unknown_parameter unsupported_parameter unknown_url"
        ),
        FailureKind.RATE_LIMITED: (
            "rate_limit_exceeded rate_limited rate_limit_reached rate_limit "
            "user_rate_limit_exceeded concurrent_requests requests_limit_exceeded "
            "request_limit_exceeded slow_down throttled throttling throttling_exception rate_quota "
            "too_many_requests_exception"
        ),
        FailureKind.SERVER_ERROR: "image_generation_server_error image_generation_failed",
        FailureKind.AMBIGUOUS: "request_timeout gateway_timeout timeout",
    }.items()
    for code in codes.split()
}
LIKE_A_STATUS: dict[str, FailureKind] = {
    code.replace("_", ""): kind
    for kind, codes in {
        FailureKind.MISCONFIGURED: (
            "unauthorized forbidden permission_denied permission_error access_denied "
            "access_denied_exception"
        ),
        FailureKind.RATE_LIMITED: (
            "too_many_requests rate_limit_error throttling_error resource_exhausted quota_exceeded"
        ),
        FailureKind.SERVER_ERROR: "server_error internal_error internal_server_error",
    }.items()
    for code in codes.split()
}
"""Codes that say no more than a status does: sentences and reasons beside them say more.

Google's RESOURCE_EXHAUSTED is a limit on requests as well as an empty account.
"""
USER_ERROR = "imagegenerationusererror"
"""OpenAI's type of what the user did wrong, as `plain` writes it."""
_GENERAL_CODES = (
    "error api_error bad_request bad_request_error invalid_request invalid_request_error "
    "invalid_argument client_error upstream_error bad_response_status_code "
    "image_generation_user_error"
)
SAYS_NOTHING = frozenset(code.replace("_", "") for code in _GENERAL_CODES.split())
"""Codes of every error, as `plain` writes them."""

# What a code with parts says before the part that is known, where that part is no reason: in
# timeout:content_filter moderation could not work.
_TROUBLE = re.compile(r"timeout|timedout|unavailable|overload|busy|server|internal")
# The beginnings of what it says after that part, if it is one: not content_filter:offline, which is
# trouble as well, nor safety.level, which is a parameter.
_DETAIL = re.compile(
    r"sex|violen|hate|self|harass|minor|child|graphic|prompt|input|output|text|image|high|medium|"
    r"severe|user|account|overdue|monthly"
)


def plain(code: str) -> str:
    """A code in lower case without punctuation."""
    return re.sub("[^a-z0-9]", "", code.lower())


def kind_of_code(code: str) -> FailureKind | None:
    """The kind that a code means wherever it stands; None if it has no one meaning.

    Of a code with parts any part can be known: SAFETY:sexual. A limit on requests comes before all
    others. Trouble of the server is told by the last part. The other kinds are final or end a run,
    so the rest of the code must be of the same kind, or say no more than where and of what.
    """
    if not code.isascii():
        return None
    if whole := _BY_CODE.get(plain(code)):
        return whole
    parts = _parts(code)
    known = [at for at, part in enumerate(parts) if part in _BY_CODE]
    kinds = {_BY_CODE[parts[at]] for at in known}
    if FailureKind.RATE_LIMITED in kinds:
        return FailureKind.RATE_LIMITED
    if kinds <= {FailureKind.AMBIGUOUS, FailureKind.SERVER_ERROR}:
        return _BY_CODE.get(parts[-1]) if parts else None
    before, after = parts[: known[0]], parts[known[0] :]
    agree = all(part in _BY_CODE or _DETAIL.match(part) for part in after)
    is_clear = agree and len(kinds) == 1 and not any(map(_TROUBLE.search, before))
    return kinds.pop() if is_clear else None


def contradicts_itself(code: str) -> bool:
    """Whether a part of a code is known and another one speaks against it."""
    return kind_of_code(code) is None and any(part in _BY_CODE for part in _parts(code))


def _parts(code: str) -> list[str]:
    """The parts of a code; of an address, those of its end. A sentence has none."""
    end = re.sub(r"^(\w+:/)?/.*[/#](?=.)", "", code)
    return [] if " " in code else [plain(part) for part in re.split("[:./#]", end)]
